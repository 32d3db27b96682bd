"""Averaging of weights that starts later than the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging


class EMA(EMAWeightAveraging):
    """Lightning's `EMAWeightAveraging`, whose average equals the weights until it starts.

    Lightning's is the untrained model until then, which would be validated, saved and exported. Arguments are those of
    `EMAWeightAveraging`, such as `decay` and `update_starting_at_step`.
    """

    _has_started = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Returns True in each step before the start too."""
        due = super().should_update(step_idx, epoch_idx)
        return due or (step_idx is not None and not self._has_started)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the average, before the start by a copy."""
        if self._average_model is not None and trainer.global_step > self._latest_update_step:
            self._has_started |= super().should_update(step_idx=trainer.global_step - 1)
            if not self._has_started:
                self._average_model.n_averaged.zero_()  # torch copies the weights in the first update
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Updates the average."""
        self._has_started |= super().should_update(epoch_idx=trainer.current_epoch)
        super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Adds whether the average has started."""
        return {**super().state_dict(), "has_started": self._has_started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        super().load_state_dict(state_dict)
        self._has_started = state_dict.get("has_started", True)


def check_averages(callbacks: Iterable[Callback]) -> None:
    """Checks that no average is validated before it is one.

    Raises:
        MisconfigurationException: A callback of Lightning starts to average after the first step.
    """
    for callback in callbacks:
        if isinstance(callback, EMAWeightAveraging) and not isinstance(callback, EMA):
            name, start = "update_starting_at_step", callback.update_starting_at_step or 0
            if not callback.update_every_n_steps:
                name, start = "update_starting_at_epoch", callback.update_starting_at_epoch or 0
            if start > 0:
                raise MisconfigurationException(
                    f"EMAWeightAveraging({name}={start}) validates, saves and exports the untrained model until"
                    f" {name.rpartition('_')[2]} {start}: use mmcomponents.training.EMA, which has the same arguments"
                )


def has_average(trainer: Trainer) -> bool:
    """Returns whether a run averages its weights, so that its checkpoints contain the average."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, WeightAveraging) for callback in callbacks)
