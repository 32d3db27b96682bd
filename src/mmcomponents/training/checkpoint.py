"""Checkpoints of a run."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


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

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `last.ckpt`, unless the last step has just been written."""
        if self._last_global_step_saved != trainer.global_step and trainer.global_step > 0:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
