"""Callback that keeps NaN and infinity out of the weights."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mmcomponents.batch import PackedBatch
from mmcomponents.component import NonFiniteError
from mmcomponents.training.answer_report import gather_lists
from mmcomponents.training.gradients.gradient_norms import local_norms

logger = logging.getLogger(__name__)

_SHOWN = 8
"""Maximum number of sample keys in a message."""


class NonFiniteGuard(Callback):
    """Stops the run before an update with NaN or infinity, or skips a limited number of such updates.

    Before each optimizer step, the losses of the accumulation window and the norm of each slot's gradients are checked,
    on the device; one small all-reduce makes all ranks decide alike in the same step, and the flags are copied to the
    host once. The last checkpoint stays as it is. The weights are checked once more before they are saved.

    A skipped step changes neither weights nor moments, and Lightning's weight averaging does not count it. It counts
    as a step of the schedule. With a gradient scaler (`precision: 16-mixed`) only NaN losses are found: infinite
    gradients are part of the scaler's search for a scale, and it skips these updates itself.

    Args:
        max_skipped_steps: Number of updates that may be skipped in a run, also over resumes; the next one ends it. If
            it is not 0, `train/skipped_steps` is logged.

    Attributes:
        skipped: Number of updates skipped so far; part of the checkpoint.
    """

    def __init__(self, max_skipped_steps: int = 0) -> None:
        if max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps must not be negative, got {max_skipped_steps}")
        self.max_skipped_steps = max_skipped_steps
        self.skipped = 0
        self._keys: list[str] = []
        self._window: list[tuple[Tensor, list[str]]] = []  # loss and sample keys of each micro-batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of skipped updates, if there are any."""
        # Lightning warns of a state that no callback takes, and `test` has no guard.
        return {"skipped": self.skipped} if self.skipped else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the number of skipped updates."""
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears what an interrupted run left."""
        self._window = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stores the keys of the micro-batch."""
        self._keys = [key for key in batch.keys if key] if isinstance(batch, PackedBatch) else []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Stores the loss of the micro-batch, a scalar."""
        self._window.append((loss.detach(), self._keys))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the losses and the gradients of the step, before clipping.

        Raises:
            NonFiniteError: One of them is not finite and no update may be skipped any more; raised on all ranks.
        """
        window, self._window = self._window, []
        is_scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if not window:  # a step without a loss
            return
        losses = torch.stack([loss for loss, _ in window])
        losses = ~losses.isnan() if is_scaled else losses.isfinite()
        norms = {} if is_scaled else local_norms(optimizer)
        finite = [norm.to(losses.device).isfinite() for norm in norms.values()]
        wrong = ~torch.stack([losses.all(), *finite])
        is_loss, *flags = _any_rank(trainer, wrong).tolist()
        if is_loss or any(flags):
            slots = [slot for slot, flag in zip(norms, flags, strict=True) if flag]
            packs = [keys for (_, keys), good in zip(window, losses.tolist(), strict=True) if not (is_loss and good)]
            keys = gather_lists([key for pack in packs for key in pack])
            self._stop_or_skip(trainer, optimizer, _message(trainer.global_step + 1, bool(is_loss), slots, keys))
        if self.max_skipped_steps:
            pl_module.log("train/skipped_steps", float(self.skipped), batch_size=1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Checks the weights, which an update may have made infinite, before they replace a good checkpoint.

        Raises:
            NonFiniteError: They are NaN or infinite; raised on all ranks.
        """
        local = [p.to_local() if isinstance(p, DTensor) else p for p in pl_module.parameters()]
        own = [value.detach() for value in local if value.numel()]
        largest = get_total_norm(own, norm_type=torch.inf).to(pl_module.device)
        wrong = bool(_any_rank(trainer, ~largest.isfinite()))
        if wrong:
            raise NonFiniteError(
                f"step {trainer.global_step}: the weights are NaN or infinite; they are not saved, and the last"
                " checkpoint is unchanged"
            )

    def _stop_or_skip(self, trainer: Trainer, optimizer: Optimizer, message: str) -> None:
        if self.skipped >= self.max_skipped_steps:
            before = f" after {self.skipped} skipped steps" if self.skipped else ""
            raise NonFiniteError(f"{message}; the run stops{before} and its last checkpoint is unchanged")
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # optimizers leave parameters without gradient and their moments alone
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # would average the unchanged weights once more
                callback.load_state_dict(callback.state_dict() | {"latest_update_step": trainer.global_step + 1})
        if trainer.is_global_zero:
            logger.warning("%s; step skipped (%d of at most %d)", message, self.skipped, self.max_skipped_steps)


def _any_rank(trainer: Trainer, flags: Tensor) -> Tensor:
    """Returns flags that are set where those of any rank are."""
    flags = flags.to(torch.int32)
    if trainer.world_size > 1:
        torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return flags


def _message(step: int, is_loss: bool, slots: list[str], keys: list[str]) -> str:
    wrong = ["the loss"] if is_loss else []
    if slots:
        wrong.append(f"the gradient of {', '.join(slots)}")
    shown = f"{', '.join(keys[:_SHOWN])}{f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''}"
    verb = "are" if len(wrong) > 1 else "is"
    return f"step {step}: {' and '.join(wrong)} {verb} NaN or infinite (samples: {shown or 'unknown'})"
