"""Callback that logs an image of the model's answers after each validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.answer_sheet import Row, answer_sheet, brief, short
from mmcomponents.generation.base import Answer
from mmcomponents.training.answer_report import is_right
from mmcomponents.training.task import MultimodalTask

log = logging.getLogger(__name__)


class AnswerPictures(Callback):
    """Logs an image with questions, correct answers and the model's answers to TensorBoard, as `val/answers`.

    The questions are those of the first validation samples, if possible with an image, the same in each validation.
    Every rank answers them, so that ranks stay synchronised; rank zero draws the image. The callback does nothing
    without TensorBoard or validation data. Texts are compared with the correct answers, pictures stand beside the
    images, and of values the first ones are shown. In place of the image, a warning is logged once if the datamodule
    has no questions (`validation_prompts`), and in each validation if the sampler fails.

    Args:
        questions: Number of questions.
        tag: Name of the image.
    """

    def __init__(self, questions: int = 6, tag: str = "val/answers") -> None:
        if questions < 1:
            raise ValueError(f"questions must be at least 1, got {questions}")
        self.questions, self.tag = questions, tag
        self._prompts: PromptBatch | None = None
        self._is_asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clears the questions of an earlier run."""
        self._prompts, self._is_asked = None, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers the questions and logs the image."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not loggers or not isinstance(pl_module, MultimodalTask):
            return
        if not self._is_asked:
            make_prompts = getattr(trainer.datamodule, "validation_prompts", None)  # type: ignore[attr-defined]
            self._prompts, self._is_asked = None if make_prompts is None else make_prompts(self.questions), True
            if not self._prompts and trainer.is_global_zero:
                log.warning("no image of answers: no validation sample has a question")
        if not self._prompts:
            return
        try:
            answers = answer(trainer, pl_module, self._prompts)
        except (torch.OutOfMemoryError, torch.distributed.DistError):  # the other ranks may not have failed
            raise
        except Exception as error:  # raised on all ranks, which answer the same questions
            if trainer.is_global_zero:
                known = isinstance(error, NonFiniteError | WiringError)
                log.warning("no image of answers: %s%s", "" if known else f"{type(error).__name__}: ", error)
            return
        if trainer.is_global_zero:
            picture = np.asarray(answer_sheet(sheet_rows(self._prompts, answers)))
            for logger in loggers:
                logger.experiment.add_image(self.tag, picture, trainer.global_step, dataformats="HWC")


@torch.no_grad()
def answer(trainer: Trainer, task: MultimodalTask, prompts: PromptBatch) -> list[Answer]:
    """Computes the task's answers as `test` does: on the trainer's device and in its precision.

    The state of the run's random generators is restored.
    """
    moved: Any = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(prompts))
    with isolate_rng(), trainer.precision_plugin.val_step_context():
        return task.answer(moved)


def sheet_rows(prompts: PromptBatch, answers: Sequence[Answer]) -> list[Row]:
    """Returns the rows of the answer sheet."""
    fields = zip(prompts.pictures, prompts.questions, prompts.answers, answers, strict=True)
    return [
        Row(picture, question, short(right), brief(given), is_right(right, given), given.picture)
        for picture, question, right, given in fields
    ]
