"""Averaging of weights that starts later than the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, whose average equals the weights until it starts.

    Lightning's is the untrained model until then, which would be validated, saved and exported. Arguments are those of
    `EMAWeightAveraging`, such as `decay` and `update_starting_at_step`.
    """

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns True in each step before the start too."""
        return self._precedes(step_idx) or super().should_update(step_idx, epoch_idx)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the average, before the start by a copy."""
        is_due = trainer.global_step > self._latest_update_step
        if self._average_model is not None and is_due and self._precedes(trainer.global_step - 1):
            self._average_model.n_averaged.zero_()  # torch copies the weights in the first update
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _precedes(self, step: int | None) -> bool:
        return step is not None and step < (self.update_starting_at_step or 0)


def check_averages(callbacks: Iterable[Callback]) -> None:
    """Checks that no average is validated before it is one.

    Raises:
        MisconfigurationException: A callback of Lightning starts to average after the first step.
    """
    for callback in callbacks:
        if isinstance(callback, EMAWeightAveraging) and not isinstance(callback, EMA):
            start = callback.update_starting_at_step or 0
            if start > 0:
                raise MisconfigurationException(
                    f"EMAWeightAveraging(update_starting_at_step={start}) validates, saves and exports the untrained"
                    f" model until step {start}: use mmcomponents.training.EMA, which has the same arguments"
                )
