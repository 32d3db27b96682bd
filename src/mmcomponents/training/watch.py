"""An early end for a run in which a part learns nothing because it is not connected."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mmcomponents.batch import PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.training.flops import PREFIX


class NoGradientError(RuntimeError):
    """A trainable part received no gradient; the message names slot and class."""


class GradientWatch(Callback):
    """Ends the run if a trainable slot has received no gradient in the first steps with images.

    Looks at the gradients of the first optimizer steps that had an image, on any rank and in any micro-batch of the
    accumulation window (of all steps, where the model has no vision encoder). A slot all of whose gradients were absent
    or zero in all of them is an error, raised on every rank. Frozen slots are exempt. It stops looking as soon as every
    slot has had a gradient, which is the first step of most runs.

    Args:
        steps: Steps with images to look at; 0 switches the watch off.
    """

    def __init__(self, steps: int = 10) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        self.steps = steps
        self._waiting: list[str] = []
        self._looked = 0
        self._had_images = False
        self._is_known = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the slots to look at."""
        self._looked, self._had_images, self._waiting = 0, False, []
        model = getattr(pl_module, "model", None)
        if not isinstance(model, MultimodalModel) or self.steps == 0:
            return
        self._waiting = [n for n, part in model.parts().items() if any(p.requires_grad for p in part.parameters())]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Notes whether the step has images; what the loader knows of all ranks is taken from there."""
        if self._waiting:
            known = (batch.totals or {}).get(f"{PREFIX}tiles")
            here = batch.images is not None if known is None else known > 0
            self._had_images = self._had_images or here or self._model(pl_module).vision is None
            self._is_known = known is not None

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the gradients of the step, before they are clipped.

        Raises:
            NoGradientError: It was the last step to look at, and a slot has had no gradient.
        """
        if not self._waiting:
            return
        here, self._had_images = self._had_images, False
        if self._is_known and not here:
            return  # all ranks know that none of them had an image
        device, parts = pl_module.device, self._model(pl_module).parts()
        # Parameters are asked for now, after the backward pass: FSDP2 has others in their place until then.
        flags = [_any_gradient(parts[name], device) for name in self._waiting]
        answer = torch.stack([torch.tensor(here, device=device), *flags]).to(torch.int32)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
        had_images, *alive = answer.tolist()
        if not had_images:
            return
        self._looked += 1
        self._waiting = [name for name, found in zip(self._waiting, alive, strict=True) if not found]
        if self._waiting and self._looked >= self.steps:
            silent, self._waiting = self._waiting, []
            raise NoGradientError(self._complaint(self._model(pl_module), silent))

    def _complaint(self, model: MultimodalModel, silent: list[str]) -> str:
        parts = model.parts()
        named = " and ".join(f"{name} ({class_name(parts[name])})" for name in silent)
        options = ", ".join(f"model.slots.{name}.trainable: false" for name in silent)
        what = "steps" if model.vision is None else "steps with images"
        it = "it" if len(silent) == 1 else "them"
        return f"{named} received no gradient in the first {self.steps} {what}; freeze {it} ({options}) or connect {it}"

    def _model(self, pl_module: LightningModule) -> MultimodalModel:
        model = pl_module.model
        assert isinstance(model, MultimodalModel)
        return model


def class_name(part: nn.Module) -> str:
    """Name of a part's class as its author wrote it; FSDP2 puts a class of its own over that of a sharded part."""
    return next(c.__name__ for c in type(part).__mro__ if not issubclass(c, FSDPModule))


def _any_gradient(part: nn.Module, device: torch.device) -> Tensor:
    """Whether any value of any gradient, or of this rank's piece of it, is not zero; a bool scalar."""
    grads = [p.grad for p in part.parameters() if p.grad is not None]
    local = [g.to_local() if isinstance(g, DTensor) else g for g in grads]
    return torch.stack([torch.tensor(False, device=device), *(g.any() for g in local)]).any()
