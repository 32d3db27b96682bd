"""Writing of a run's checkpoints."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.runs import check_contents, verify, write_error
from mmcomponents.data.storage.atomic_write import atomic_path
from mmcomponents.training.averaging import has_average


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final path and renames it: an interrupted run keeps the last complete one.

    Lightning writes to the system's temporary folder. If that is another file system, it then copies over the last
    checkpoint, and a run killed during the copy has no checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; remote paths are left to Lightning.

        Raises:
            CheckpointError: The file cannot be written; the previous one is unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target, shared=False) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            raise CheckpointError(write_error(target, error)) from error

    def load_checkpoint(
        self, path: _PATH, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint after its checksums are verified; remote paths are left to Lightning.

        Lightning's default `map_location`, a function, has the same effect on plain tensors, and does not take the
        quantised states of an optimizer.

        Raises:
            CheckpointError: The file is damaged, is not a checkpoint, or would run code.
        """
        if "://" not in str(path):
            verify(Path(path))
        try:
            loaded = super().load_checkpoint(path, map_location, True if weights_only is None else weights_only)
        except pickle.UnpicklingError:
            raise CheckpointError(f"{path} holds more than plain data and weights, and could run code") from None
        check_contents(Path(path), loaded)
        return loaded


class FinalCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also writes `last.ckpt` at the end of the run.

    Lightning writes `last.ckpt` only when an interval is complete: of 2,700 steps with an interval of 500, the last 200
    would be lost. The name of the newest stays `last.ckpt`; Lightning would write `last-v1.ckpt` beside an older one.

    Lightning ranks a checkpoint by the newest value of `monitor`, which for a value of the validation belongs to older
    weights. Ranked checkpoints are here written at the end of a validation, the first one when an interval is complete;
    `last.ckpt` does not wait for it.

    Args:
        dirpath: Folder.
        every_n_train_steps: Interval in optimizer steps. None: at the end of each epoch.
        filename: Name of the files other than `last.ckpt`.
        monitor: Logged value that ranks the checkpoints. None: the newest is the best.
        mode: Whether small ("min") or large ("max") values of it are better.
        save_top_k: Number of best checkpoints to keep beside `last.ckpt`. -1: all.
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
        # Without a value that ranks them, Lightning keeps one checkpoint or all.
        self._newest = save_top_k if monitor is None and save_top_k > 1 else None
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k if self._newest is None else -1,
            save_last=True,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Installs `WholeCheckpointIO` unless another checkpoint IO is configured."""
        super().setup(trainer, pl_module, stage)
        use_whole_checkpoints(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves as Lightning does, but only at the end of an optimizer step, and with a current value of `monitor`.

        After a resume Lightning does not know which step was saved last and saves again within the next accumulation
        window, whose accumulated gradients no checkpoint contains.
        """
        loop = trainer.fit_loop
        if loop._should_accumulate():
            return
        is_current = self.monitor is None or self.monitor in trainer._logger_connector.metrics["callback"]
        if is_current or not self._is_due(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            return
        self._defer_save_until_validation = True
        assert loop._data_fetcher is not None
        if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # else the validation follows at once
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves as Lightning does; with weight averaging, also writes `last.ckpt` at the end of the run.

        Lightning's averaging copies the average into the model when training ends, before this callback is called: a
        run resumed from a checkpoint written then would continue from the average.
        """
        super().on_train_epoch_end(trainer, pl_module)
        is_last = trainer.should_stop or trainer.global_step == trainer.max_steps
        is_last = is_last or trainer.current_epoch + 1 == trainer.max_epochs
        if is_last and has_average(trainer):
            self._save_end(trainer)

    def _save_none_monitor_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if self._newest is None:
            super()._save_none_monitor_checkpoint(trainer, monitor_candidates)
            return
        path = self._get_metric_interpolated_filepath_name(monitor_candidates, trainer, self.best_model_path)
        # Part of the saved state: a resumed run removes what this one has left.
        self.best_model_path = path
        self.best_k_models[path] = torch.tensor(trainer.global_step)
        old = sorted(self.best_k_models, key=lambda name: int(self.best_k_models[name]))[: -self._newest]
        for name in old:
            del self.best_k_models[name]
        self._save_checkpoint(trainer, path)
        for name in old:
            if self._should_remove_checkpoint(trainer, name, path):
                self._remove_checkpoint(trainer, name)

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether an interval ends with this step, which is not saved yet."""
        every = self._every_n_train_steps
        return every > 0 and trainer.global_step % every == 0 and not self._should_skip_saving_checkpoint(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `last.ckpt` unless the last step is already saved."""
        self._save_end(trainer)

    def _save_end(self, trainer: Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step and trainer.global_step > 0:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


def use_whole_checkpoints(trainer: Trainer) -> None:
    """Makes a trainer read and write checkpoints with `WholeCheckpointIO`, unless it has another checkpoint IO."""
    if type(getattr(trainer.strategy, "checkpoint_io", None)) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Returns the existing local folders into which the callbacks of a trainer write checkpoints."""
    callbacks = trainer.checkpoint_callbacks
    given = [str(c.dirpath) for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath is not None]
    return [folder for folder in map(Path, given) if folder.is_dir()]
