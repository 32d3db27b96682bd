"""Validation metrics of critics."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torchmetrics.classification import MulticlassF1Score

from mmcomponents.batch import PackedBatch
from mmcomponents.objectives import ProcessReward
from mmcomponents.training.task import MultimodalTask


class StepF1(Callback):
    """Logs the macro F1 of a critic's verdicts as `val/step_f1`, over all solution steps of the validation data.

    Macro F1 is the mean of the F1 of correct and of incorrect steps (VisualPRM, arXiv 2503.10291, section 4.2), which
    a critic cannot raise by judging every step correct. Ranks are reduced. The callback does nothing with objectives
    other than `ProcessReward`.

    Args:
        threshold: A step is judged correct if its score is above this value.
        tag: Name of the metric.
    """

    def __init__(self, threshold: float = 0.5, tag: str = "val/step_f1") -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
        self.threshold, self.tag = threshold, tag
        self.f1 = MulticlassF1Score(num_classes=2, average="none")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the metric."""
        self.f1.reset()
        self.f1.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the steps of a pack."""
        objective = _objective(pl_module)
        if objective is None or objective.scores is None or batch.steps is None or not objective.scores.numel():
            return
        self.f1.update((objective.scores > self.threshold).long(), batch.steps.label.long())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the metric, which reduces over ranks."""
        if _objective(pl_module) is not None:
            pl_module.log(self.tag, self.f1.compute().mean(), prog_bar=True)


def _objective(module: LightningModule) -> ProcessReward | None:
    found = module.objective if isinstance(module, MultimodalTask) else None
    return found if isinstance(found, ProcessReward) else None
