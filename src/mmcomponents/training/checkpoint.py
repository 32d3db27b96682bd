"""Checkpoints of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then moves it there: a run that dies leaves the last whole one.

    Lightning writes to the system's folder for temporary files. From another file system it is copied over the last
    checkpoint, so that a run killed then has none.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; places of other machines are left to Lightning."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


class FinalCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose `last.ckpt` also holds the end of the run.

    Lightning's own writes `last.ckpt` when an interval is complete: of 2,700 steps with an interval of 500, the last
    200 would be lost. A new run overwrites the files of the one before, so that `last.ckpt` is what was trained last.

    Args:
        dirpath: Folder.
        every_n_train_steps: Interval in optimizer steps; None: at the end of each epoch.
        filename: Name of the files beside `last.ckpt`.
        monitor: Logged value that says which are the best; None: the newest is.
        mode: Whether a small ("min") or a large value is good.
        save_top_k: How many of the best are kept; -1: all.
    """

    def __init__(
        self,
        dirpath: str | None = None,
        every_n_train_steps: int | None = None,
        filename: str | None = "{step}",
        monitor: str | None = None,
        mode: str = "min",
        save_top_k: int = 1,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=True,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has whole files written, where nobody has chosen otherwise."""
        super().setup(trainer, pl_module, stage)
        if type(getattr(trainer.strategy, "checkpoint_io", None)) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's, but at the end of a step alone.

        After a resume it does not know which step was saved last, and saves again inside the accumulation window behind
        it; the gradients that are there are in no checkpoint.
        """
        if not trainer.fit_loop._should_accumulate():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning's; and where weights are averaged, `last.ckpt` of the end of the run.

        Lightning's averaging puts the average into the model when training ends, before this callback has its turn: a
        run that goes on from there would go on from the average.
        """
        super().on_train_epoch_end(trainer, pl_module)
        is_last = trainer.should_stop or trainer.global_step == trainer.max_steps
        is_last = is_last or trainer.current_epoch + 1 == trainer.max_epochs
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if is_last and any(isinstance(callback, WeightAveraging) for callback in callbacks):
            self._save_end(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `last.ckpt`, unless the last step has just been written."""
        self._save_end(trainer)

    def _save_end(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and trainer.global_step > 0:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
