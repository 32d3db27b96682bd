"""Activation checkpointing of the shard units of parts (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Checkpointing = Literal["none", "selective", "full"]
"""What a unit keeps for the backward pass: all that its operations save; its input and the results that take the most
operations per byte; its input only. The rest is computed again."""

_PRODUCTS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1}
"""Products of linear maps, and the place of their input among the arguments."""


class Checkpointed(nn.Module):
    """Base class that `checkpoint_unit` adds to a unit."""

    contexts: Callable[[], Any] | None
    own_class: ClassVar[type[nn.Module]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the unit's own `forward`, as a checkpoint if there may be a backward pass."""
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        if self.contexts is not None:
            kwargs["context_fn"] = self.contexts
        return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)


def checkpoint_unit(unit: nn.Module, setting: Checkpointing) -> None:
    """Makes a unit compute again in the backward pass what it does not keep, in place.

    The class of the unit becomes a subclass of its own class, as with FSDP2, so that names of weights stay as they are.
    Random numbers, as of dropout, are the same both times. Another call replaces the setting. Limits of torch: with
    "selective", a second backward pass through the same graph raises an error. The unit cannot be pickled.

    Args:
        unit: Module that is neither sharded nor compiled yet.
        setting: What it keeps.
    """
    own = unit.own_class if isinstance(unit, Checkpointed) else type(unit)
    unit.__class__ = own if setting == "none" else _checkpointed(own, setting)  # type: ignore[arg-type]


@cache
def _checkpointed(kind: type[nn.Module], setting: Checkpointing) -> type[nn.Module]:
    contexts = partial(create_selective_checkpoint_contexts, _keeps) if setting == "selective" else None
    attributes = {"contexts": contexts, "own_class": kind}
    return type(f"Checkpointed{kind.__name__}", (Checkpointed, kind), attributes)


def _keeps(context: SelectiveCheckpointContext, operation: OpOverload, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keeps attention, whose cost grows with the square of a segment, and linear maps to at most their input's width.

    To compute an element of a linear map again takes as many multiply-adds as its input is wide. So a map to a greater
    width gives back the most memory per operation: gate and up of a feed-forward block, a fused query, key and value.
    """
    if is_attention(operation):
        return CheckpointPolicy.MUST_SAVE
    place = _PRODUCTS.get(operation)
    if place is not None and args[place + 1].shape[1] <= args[place].shape[1]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def is_attention(operation: OpOverload) -> bool:
    """Returns whether an operation is a fused attention kernel: torch's, xformers', or of the flash-attn packages."""
    name = operation.name()
    return "attention" in name or name.startswith(("xformers", "torch_attn::", "flash_attn"))
