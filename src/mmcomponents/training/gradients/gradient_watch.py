"""Callback that stops a run early if a trainable part receives no gradient."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmcomponents.batch import PackedBatch
from mmcomponents.checkpoints.checks.other_settings import own_class
from mmcomponents.model import MultimodalModel
from mmcomponents.training.flops import PREFIX


class NoGradientError(RuntimeError):
    """Raised when a trainable part receives no gradient; the message names slot and class."""


class GradientWatch(Callback):
    """Stops the run if a trainable slot receives no gradient in the first steps with images.

    Checks the gradients of the first optimizer steps that have an image on any rank and in any micro-batch of the
    accumulation window (of all steps, if the model has no vision encoder). Raises an error on every rank if all
    gradients of a slot are absent or zero in all of these steps. Frozen slots are exempt. The check ends as soon as
    every slot has had a gradient, in most runs after the first step.

    Args:
        steps: Number of steps with images to check. 0 disables the check.
    """

    def __init__(self, steps: int = 10) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self.steps = steps
        self._waiting: list[str] = []
        self._checked = 0
        self._had_images = False
        self._is_known = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Determines the slots to check."""
        self._checked, self._had_images, self._waiting = 0, False, []
        model = getattr(pl_module, "model", None)
        if not isinstance(model, MultimodalModel) or self.steps == 0:
            return
        self._waiting = [n for n, part in model.parts().items() if any(p.requires_grad for p in part.parameters())]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Records whether the step has images, from the loader's counts over all ranks if there are any."""
        if self._waiting:
            known = (batch.totals or {}).get(f"{PREFIX}tiles")
            here = batch.images is not None if known is None else known > 0
            self._had_images = self._had_images or here or self._model(pl_module).vision is None
            self._is_known = known is not None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the gradients of the step before clipping.

        Raises:
            NoGradientError: A slot has had no gradient by the last step to check.
        """
        if not self._waiting:
            return
        here, self._had_images = self._had_images, False
        if self._is_known and not here:
            return  # no rank had an image, and all ranks have this information
        device, parts = pl_module.device, self._model(pl_module).parts()
        # Parameters are looked up after the backward pass: until then FSDP2 replaces them by unsharded ones.
        flags = [_any_gradient(parts[name], device) for name in self._waiting]
        answer = torch.stack([torch.tensor(here, device=device), *flags]).to(torch.int32)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
        had_images, *alive = answer.tolist()
        if not had_images:
            return
        self._checked += 1
        self._waiting = [name for name, found in zip(self._waiting, alive, strict=True) if not found]
        if self._waiting and self._checked >= self.steps:
            slots, self._waiting = self._waiting, []
            raise NoGradientError(self._message(self._model(pl_module), slots))

    def _message(self, model: MultimodalModel, slots: list[str]) -> str:
        parts = model.parts()
        named = " and ".join(f"{name} ({class_name(parts[name])})" for name in slots)
        options = ", ".join(f"model.slots.{name}.trainable: false" for name in slots)
        what = "steps" if model.vision is None else "steps with images"
        it = "it" if len(slots) == 1 else "them"
        return f"{named} received no gradient in the first {self.steps} {what}; freeze {it} ({options}) or connect {it}"

    def _model(self, pl_module: LightningModule) -> MultimodalModel:
        model = pl_module.model
        assert isinstance(model, MultimodalModel)
        return model


def class_name(part: nn.Module) -> str:
    """Returns the name of a part's original class."""
    return own_class(part).__name__


def _any_gradient(part: nn.Module, device: torch.device) -> Tensor:
    """Returns whether any value of any gradient, or of this rank's shard of it, is non-zero, as a bool scalar."""
    grads = [p.grad for p in part.parameters() if p.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in grads]
    return torch.stack([torch.tensor(False, device=device), *(g.any() for g in local)]).any()
