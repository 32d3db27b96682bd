"""Callback that logs an image of the model's answers after each validation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from mmcomponents.component import NonFiniteError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.training.answer_sheet import Row, answer_sheet
from mmcomponents.training.task import MultimodalTask

log = logging.getLogger(__name__)


class AnswerPictures(Callback):
    """Logs an image with questions, correct answers and the model's answers to TensorBoard, as `val/answers`.

    The questions are those of the first validation samples with an image, the same in each validation. Every rank
    answers them, so that ranks stay synchronised; rank zero draws the image. The callback does nothing without
    TensorBoard, validation data or a datamodule with prompts (`validation_prompts`). Logits that are not finite are
    logged as a warning, in place of the image.

    Args:
        questions: Number of questions.
        tag: Name of the image.
    """

    def __init__(self, questions: int = 6, tag: str = "val/answers") -> None:
        if questions < 1:
            raise ValueError(f"questions must be at least 1, got {questions}")
        self.questions, self.tag = questions, tag
        self._prompts: PromptBatch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clears the questions of an earlier run."""
        self._prompts = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers the questions and logs the image."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not loggers or not isinstance(pl_module, MultimodalTask):
            return
        make_prompts = getattr(trainer.datamodule, "validation_prompts", None)  # type: ignore[attr-defined]
        if self._prompts is None and make_prompts is not None:
            self._prompts = make_prompts(self.questions)
        if self._prompts is None or not len(self._prompts):
            return
        try:
            answers = answer(trainer, pl_module, self._prompts)
        except NonFiniteError as error:  # raised on all ranks
            if trainer.is_global_zero:
                log.warning("no image of answers: %s", error)
            return
        if trainer.is_global_zero:
            rows = sheet_rows(self._prompts, answers)
            if rows:
                picture = np.asarray(answer_sheet(rows))
                for logger in loggers:
                    logger.experiment.add_image(self.tag, picture, trainer.global_step, dataformats="HWC")


@torch.no_grad()
def answer(trainer: Trainer, task: MultimodalTask, prompts: PromptBatch) -> list[str]:
    """Computes the task's answers as `test` does: on the trainer's device and in its precision.

    The state of the run's random generators is restored.
    """
    moved: Any = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(prompts))
    with isolate_rng(), trainer.precision_plugin.val_step_context():
        return task.answer(moved)


def sheet_rows(prompts: PromptBatch, answers: list[str]) -> list[Row]:
    """Returns the rows of the answer sheet: the questions that have an image."""
    fields = zip(prompts.pictures, prompts.questions, prompts.answers, answers, strict=True)
    return [(p, q, a, given, exact_match(a, given)) for p, q, a, given in fields if p is not None]
