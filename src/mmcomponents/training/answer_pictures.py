"""A picture of the model's answers, after each validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from mmcomponents.data import PromptBatch
from mmcomponents.inference import exact_match
from mmcomponents.training.pictures import Row, answer_sheet
from mmcomponents.training.task import MultimodalTask


class AnswerPictures(Callback):
    """Adds a picture with questions, right answers and the model's answers to TensorBoard, as `val/answers`.

    The questions are about the first validation samples with a picture, the same in each validation. Every rank answers
    them, so that ranks stay in step; the first one draws. Without TensorBoard, validation data or a datamodule that
    offers prompts (`validation_prompts`), nothing happens.

    Args:
        questions: Number of questions.
        tag: Name of the picture.
    """

    def __init__(self, questions: int = 6, tag: str = "val/answers") -> None:
        if questions < 1:
            raise ValueError(f"questions must be at least 1, got {questions}")
        self.questions, self.tag = questions, tag
        self._prompts: PromptBatch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the questions of another run's data."""
        self._prompts = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers and draws."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.sanity_checking or not loggers or not isinstance(pl_module, MultimodalTask):
            return
        offer = getattr(trainer.datamodule, "validation_prompts", None)  # type: ignore[attr-defined]
        if self._prompts is None and offer is not None:
            self._prompts = offer(self.questions)
        if self._prompts is None or not len(self._prompts):
            return
        answers = answer(trainer, pl_module, self._prompts)
        if trainer.is_global_zero:
            rows = sheet_rows(self._prompts, answers)
            if rows:
                picture = np.asarray(answer_sheet(rows))
                for logger in loggers:
                    logger.experiment.add_image(self.tag, picture, trainer.global_step, dataformats="HWC")


@torch.no_grad()
def answer(trainer: Trainer, task: MultimodalTask, prompts: PromptBatch) -> list[str]:
    """The task's answers, computed as a test would: on the trainer's device and in its precision.

    A sampler that draws leaves the random numbers of the run as they were.
    """
    moved: Any = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(prompts))
    with isolate_rng(), trainer.precision_plugin.val_step_context():
        return task.answer(moved)


def sheet_rows(prompts: PromptBatch, answers: list[str]) -> list[Row]:
    """What is drawn of questions and their answers: those with a picture."""
    fields = zip(prompts.pictures, prompts.questions, prompts.answers, answers, strict=True)
    return [(p, q, a, given, exact_match(a, given)) for p, q, a, given in fields if p is not None]
