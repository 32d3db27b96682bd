"""Callback that writes and draws the boxes that a model finds, and computes their average precision."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from mmcomponents.component import WiringError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.data.media.images import decode_image
from mmcomponents.evaluation.box_ap import SMALL, check_pycocotools
from mmcomponents.evaluation.box_evaluation import average_precision
from mmcomponents.generation.base import Answer
from mmcomponents.generation.found_boxes import MIN_SCORE, FoundBox, draw_found
from mmcomponents.generation.top_boxes import TopBoxes
from mmcomponents.training.answer_pictures import answer
from mmcomponents.training.answer_report import gather_lists
from mmcomponents.training.task import MultimodalTask

_FOLDER, _BOXES, _REPORT = "boxes", "boxes.jsonl", "boxes.json"
_COLUMNS = 3


class BoxReport(Callback):
    """Writes `boxes.json`, `boxes.jsonl` and pictures in `boxes` into the run's folder after `test`.

    `boxes.json` has the average precision over the images of all ranks (`evaluation.box_ap`), `boxes.jsonl` the boxes
    of each image in pixels. After each validation, boxes in the first images are drawn in TensorBoard, as `val/boxes`.
    The callback is for samplers of boxes (`TopBoxes`) and samples of the kind `BoxedImage`.

    Args:
        images: Number of images that are drawn.
        min_score: Least score of a box that is drawn.
        small: Area in pixels up to which a box counts as small.

    Attributes:
        summary: Lines about the last `test`, which the command prints.

    Raises:
        ValueError: The number of images is negative.
    """

    def __init__(self, images: int = 6, min_score: float = MIN_SCORE, small: float = SMALL) -> None:
        if images < 0:
            raise ValueError(f"images must be at least 0, got {images}")
        self.images, self.min_score, self.small = images, min_score, small
        self.summary: tuple[str, ...] = ()
        self._rows: list[dict[str, Any]] = []
        self._batches = 0
        self._prompts: PromptBatch | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears the boxes.

        Raises:
            WiringError: The sampler finds no boxes, or pycocotools is not installed.
        """
        try:
            check_pycocotools()
        except ModuleNotFoundError as error:
            raise WiringError(f"BoxReport: {error}") from error
        self._rows, self._batches = [], 0
        _sampler(pl_module)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects the boxes of a batch, and draws those of the first images."""
        sampler, first = _sampler(pl_module), self._batches * trainer.world_size + trainer.global_rank
        self._batches += 1
        for place, (key, true, given) in enumerate(zip(batch.keys, batch.answers, outputs["answers"], strict=True)):
            found = _found(sampler, true, given)
            self._rows.append({"key": key, "true": true, "boxes": [box.row() for box in found]})
            picture = batch.pictures[place]
            if first == 0 and place < self.images and picture is not None:
                folder = Path(trainer.default_root_dir) / _FOLDER
                folder.mkdir(parents=True, exist_ok=True)
                draw_found(decode_image(picture), found, self.min_score).save(folder / f"{place}.png")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the boxes of all ranks and writes the files."""
        rows = gather_lists(self._rows)
        if not trainer.is_global_zero or not rows:
            return
        # A sampler that fills the last batch may repeat an image; its boxes count once.
        rows = sorted({row["key"]: row for row in rows}.values(), key=lambda row: str(row["key"]))
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / _BOXES).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        report = {name: None if math.isnan(v) else v for name, v in average_precision(rows, self.small).items()}
        (folder / _REPORT).write_text(json.dumps({**report, "images": len(rows)}, indent=2) + "\n")
        figures = ", ".join(f"{name} {value:.3f}" for name, value in report.items() if value is not None)
        files = ", ".join(str(folder / name) for name in (_REPORT, _BOXES, _FOLDER) if (folder / name).exists())
        self.summary = (f"{figures or 'no boxes to compare'}, {len(rows)} images", f"wrote {files}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the boxes in the first validation images."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not loggers or not self.images or not isinstance(pl_module, MultimodalTask):
            return
        make_prompts = getattr(trainer.datamodule, "validation_prompts", None)  # type: ignore[attr-defined]
        if self._prompts is None and make_prompts is not None:
            self._prompts = make_prompts(self.images)
        if not self._prompts:
            return
        sampler = _sampler(pl_module)
        answers = answer(trainer, pl_module, self._prompts)  # on all ranks, which encode the same images
        if trainer.is_global_zero:
            drawn = [
                draw_found(decode_image(picture), _found(sampler, true, given), self.min_score)
                for picture, true, given in zip(self._prompts.pictures, self._prompts.answers, answers, strict=True)
                if picture is not None
            ]
            for logger in loggers:
                sheet = np.asarray(_sheet(drawn))
                logger.experiment.add_image("val/boxes", sheet, trainer.global_step, dataformats="HWC")


def _found(sampler: TopBoxes, true: Any, given: Answer) -> list[FoundBox]:
    if not isinstance(true, dict) or "size" not in true or given.values is None:
        raise WiringError("BoxReport needs images with boxes: name the record kind BoxedImage in data.kinds")
    width, height = true["size"]
    return sampler.in_pixels(given.values, (width, height))


def _sampler(module: LightningModule) -> TopBoxes:
    sampler = getattr(module, "sampler", None)
    if not isinstance(sampler, TopBoxes):
        raise WiringError(f"BoxReport needs the sampler TopBoxes, and the recipe's is {type(sampler).__name__}")
    return sampler


def _sheet(pictures: list[Image.Image], least: int = 192) -> Image.Image:
    """Returns pictures side by side, enlarged to a smallest side."""
    factor = max(1, -(-least // min(min(p.size) for p in pictures)))
    made = [p.resize((p.width * factor, p.height * factor), Image.Resampling.NEAREST) for p in pictures]
    wide, high = max(p.width for p in made), max(p.height for p in made)
    sheet = Image.new("RGB", (wide * min(_COLUMNS, len(made)), high * -(-len(made) // _COLUMNS)), "white")
    for number, picture in enumerate(made):
        sheet.paste(picture, (wide * (number % _COLUMNS), high * (number // _COLUMNS)))
    return sheet
