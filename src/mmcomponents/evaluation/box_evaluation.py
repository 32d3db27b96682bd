"""Evaluation of a detector on images with boxes: found boxes, average precision, pictures.

Found boxes are appended to `boxes.jsonl` as they are produced, so that an interrupted run can resume. `report.json` has
the figures, and `boxes/` pictures of the first images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmcomponents.data.chat.kinds import BoxedImage
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.media.images import decode_image
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.box_ap import SMALL, BoxesOfImage, box_ap
from mmcomponents.evaluation.coco_results import coco_results
from mmcomponents.evaluation.readers.boxed_images import StoredImage
from mmcomponents.generation.found_boxes import FoundBox, draw_found
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import check_skipped

Finding = Callable[[Sequence[Image.Image]], list[list[FoundBox]]]
"""Finds boxes in images, in pixels."""

log = logging.getLogger(__name__)

COCO = "coco.json"
"""File of the boxes in COCO's format."""

_PICTURES = 6
"""Number of images that are drawn."""


@dataclass
class BoxEvaluation:
    """Evaluation of one detector on images with boxes.

    Attributes:
        name: Name of the benchmark.
        images: Images with their true boxes.
        folder: Output folder.
        settings: All that the boxes depend on, for the journal.
        refused: "KEY: reason" of samples that cannot be used.
        max_refused: Largest fraction of the samples that may be skipped.
        small: Area in pixels up to which a box counts as small.
        categories: `id` of the category of each label in COCO's files; None: unknown.
    """

    name: str
    images: Sequence[StoredImage]
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    max_refused: float = 0.0
    small: float = SMALL
    categories: Sequence[Mapping[str, Any]] | None = None

    def limit_classes(self, count: int) -> None:
        """Skips images with a class that the model's head has not.

        Args:
            count: Number of classes of the head.
        """
        kept, kind = [], BoxedImage(num_classes=count)
        for image in self.images:
            try:
                kind.check(image.true)
                kept.append(image)
            except SampleError as error:
                self.refused.append(f"{image.key}: {error}")
        self.images = kept

    def find(
        self, finding: Finding, together: int = 8, progress: Callable[[int, int], None] | None = None
    ) -> list[dict[str, Any]]:
        """Finds the missing boxes.

        Args:
            finding: Finds boxes in a batch of images.
            together: Number of images of a batch.
            progress: Called with (images done, total) before each batch and at the end.

        Returns:
            A row for each image: `key`, `true` and `boxes`.

        Raises:
            DataError: Too many images are skipped, or the folder has boxes of a run with other settings.
        """
        self._check_refused()
        with Journal(self.folder / "boxes.jsonl", {**self.settings, "images": self._digest()}) as journal:
            left = [image for image in self.images if image.key not in journal.done]
            for first in range(0, len(left), together):
                if progress is not None:
                    progress(len(self.images) - len(left) + first, len(self.images))
                read = [(image, picture) for image in left[first : first + together] if (picture := self._read(image))]
                for (image, _), found in zip(read, finding([picture for _, picture in read]), strict=True):
                    rows = [box.row() for box in found]
                    journal.add({"key": image.key, "true": image.true, "boxes": rows})
            if progress is not None:
                progress(len(self.images), len(self.images))
            return [journal.done[image.key] for image in self.images if image.key in journal.done]

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Writes the report, the pictures, and if the images have ids of COCO the boxes in its format (`coco.json`).

        A found label without a category of COCO is a warning, and there is no `coco.json`.

        Args:
            rows: Result of `find`.

        Returns:
            Contents of `report.json`.

        Raises:
            DataError: No image has boxes.
        """
        if not rows:
            raise DataError(f"{self.name} has no image with boxes")
        figures = {name: None if math.isnan(v) else v for name, v in average_precision(rows, self.small).items()}
        report = {"benchmark": self.name, "images": len(rows), **figures, "small": self.small, "refused": self.refused}
        write_text(self.folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        try:
            found = None if self.categories is None else coco_results(self.images, rows, self.categories)
        except DataError as error:
            log.warning("%s is not written: %s", COCO, error)
        else:
            if found is not None:
                write_text(self.folder / COCO, json.dumps(found) + "\n")
        pictures = self.folder / "boxes"
        pictures.mkdir(exist_ok=True)
        by_key = {row["key"]: row["boxes"] for row in rows}
        for number, image in enumerate([image for image in self.images if image.key in by_key][:_PICTURES]):
            drawn = draw_found(decode_image(image.read()), [FoundBox.of(row) for row in by_key[image.key]])
            drawn.save(pictures / f"{number}.png")
        return report

    def _read(self, image: StoredImage) -> Image.Image | None:
        try:
            picture = decode_image(image.read())
        except SampleError as error:
            self.refused.append(f"{image.key}: {error}")
            self._check_refused()
            return None
        if list(picture.size) != [round(side) for side in image.true["size"]]:
            width, height = image.true["size"]
            self.refused.append(
                f"{image.key}: its boxes are of an image of {width} x {height} and the file has {picture.width} x"
                f" {picture.height}"
            )
            self._check_refused()
            return None
        return picture

    def _digest(self) -> str:
        """Returns a hash of keys, boxes and sizes of the images."""
        facts = [(image.key, image.true, image.member.size) for image in self.images]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _check_refused(self) -> None:
        total = len({image.key for image in self.images} | {line.partition(": ")[0] for line in self.refused})
        check_skipped(self.refused, total, self.max_refused, "images", "evaluated", f"{self.name}: ")


def average_precision(rows: Sequence[Mapping[str, Any]], small: float = SMALL) -> dict[str, float]:
    """Returns the average precision of rows of `boxes.jsonl`, see `box_ap`.

    Args:
        rows: `true` with boxes, labels and perhaps areas and crowds, and found `boxes` with `box`, `label` and `score`.
        small: Area in pixels up to which a box counts as small.
    """
    return box_ap([_true(row["true"]) for row in rows], [_found(row["boxes"]) for row in rows], small)


def _true(row: Mapping[str, Any]) -> BoxesOfImage:
    """Returns the true boxes of an image, the crowds last."""
    crowds = row.get("crowds") or []
    corners = np.array([*row["boxes"], *(crowd["box"] for crowd in crowds)], np.float64).reshape(-1, 4)
    labels = np.array([*row["labels"], *(crowd["label"] for crowd in crowds)], np.int64)
    areas = row.get("areas")
    if areas is None:
        areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1)[: len(row["boxes"])]
    area = np.array([*areas, *(crowd["area"] for crowd in crowds)], np.float64)
    return BoxesOfImage(corners, labels, None, area, np.arange(len(labels)) >= len(row["boxes"]))


def _found(rows: Sequence[Mapping[str, Any]]) -> BoxesOfImage:
    boxes, labels, scores = ([row[name] for row in rows] for name in ("box", "label", "score"))
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return BoxesOfImage(corners, np.array(labels, np.int64), np.array(scores, np.float64))
