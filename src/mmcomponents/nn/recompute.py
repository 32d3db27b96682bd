"""Elementwise results that are computed again in the backward pass instead of being kept for it.

A feed-forward block keeps the input of its activation and the activation itself, which is the input of the next linear
map; the second follows from the first by a few operations per element. A norm in half precision keeps several fp32
copies of its input where it has no kernel of its own. The functions here keep the inputs only; values and gradients are
those of the same operations under autograd, bit for bit. Only first derivatives in reverse mode exist. Compiled code is
left alone: inductor's partitioner makes this choice for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from mmcomponents.nn.autocast import autocast_dtype

Elementwise = Callable[..., Tensor]


def recomputed(function: Elementwise, *inputs: Tensor | None) -> Tensor:
    """Computes `function(*inputs)` and keeps only the inputs for the backward pass.

    Args:
        function: Cheap, deterministic function, such as a norm.
        inputs: Tensors of any shape that may need a gradient, or None.

    Returns:
        Output of the function, of any shape.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*inputs)
    return _apply(function, *inputs)


def recomputed_input(module: nn.Module, function: Elementwise, *inputs: Tensor) -> Tensor:
    """Computes `module(function(*inputs))` and keeps the inputs of the function, not its result.

    What the module saves of its input is replaced by a reference to the node that has the function's inputs. Under
    activation checkpointing, that node is recomputed first, so that the module itself is not computed again.

    Args:
        module: Linear map, of any class: plain, with an adapter, quantised.
        function: Cheap, deterministic function, such as a gated activation.
        inputs: Tensors of any shape that may need a gradient.

    Returns:
        Output of the module, of any shape.

    Raises:
        RuntimeError: The module changes its input in place, which is another one when it is computed again.
    """
    x = recomputed(function, *inputs)
    if torch.compiler.is_compiling():
        return cast(Tensor, module(x))
    node: Any = x.grad_fn
    if getattr(node, "function", None) is not function:  # no gradient is needed
        return cast(Tensor, module(x))
    storage = x.untyped_storage()._cdata
    # Hooks that are active outside, such as those of a checkpoint, go on seeing all other tensors.
    outer: Any = torch._C._autograd._top_saved_tensors_default_hooks(True) or (_same, _same)
    outer_pack, outer_unpack = outer

    def pack(saved: Tensor) -> Any:
        if saved.untyped_storage()._cdata != storage:
            return outer_pack(saved)
        return _View(saved.size(), saved.stride(), saved.storage_offset())

    def unpack(packed: Any) -> Tensor:
        if not isinstance(packed, _View):
            return cast(Tensor, outer_unpack(packed))
        again = _again(node)[0].detach()
        return again.as_strided(packed.size, packed.stride, packed.offset)

    version = x._version
    with saved_tensors_hooks(pack, unpack):
        out: Tensor = module(x)
    if x._version != version:
        raise RuntimeError(f"{type(module).__name__} changes its input in place, which is computed again later")
    return out


def _same(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class _View:
    """Geometry of a view of a result that is computed again."""

    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Elementwise, *inputs: Tensor | None) -> Tensor:
        ctx.function, ctx.autocast, ctx.again = function, _present_autocast(inputs), None
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, copies = _again(ctx)
        ctx.again = None
        leaves = [t for t in copies if t is not None and t.requires_grad]
        found = iter(torch.autograd.grad(out, leaves, grad))
        return None, *(next(found) if t is not None and t.requires_grad else None for t in copies)


_apply: Callable[..., Tensor] = _Recomputed.apply


def _again(ctx: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Returns the result with its graph, and the leaves of the graph, computed once for the module and the function."""
    if ctx.again is None:  # activation checkpointing allows one reading of the saved tensors
        pairs = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        copies = [None if t is None else t.detach().requires_grad_(needed) for t, needed in pairs]
        with torch.enable_grad(), ctx.autocast:
            ctx.again = ctx.function(*copies), copies
    again: tuple[Tensor, list[Tensor | None]] = ctx.again
    return again


def _present_autocast(inputs: tuple[Tensor | None, ...]) -> AbstractContextManager[Any]:
    """Returns a context with the present autocast, without which the backward pass runs."""
    kind = next(t.device.type for t in inputs if t is not None)
    dtype = autocast_dtype(kind)
    return nullcontext() if dtype is None else torch.autocast(kind, dtype)
