"""Size of an optimizer's state, measured on a small weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_SIDE = 256


def state_bytes(make_optimizer: Callable[[list[dict[str, Any]]], Optimizer], dtype: torch.dtype) -> float:
    """Returns the bytes of an optimizer's state per weight: 8 for AdamW, of which a large matrix is representative.

    Args:
        make_optimizer: Builds the optimizer from parameter groups.
        dtype: Data type of the weights.

    Raises:
        ValueError: The optimizer cannot make a step alone.
    """
    weight = nn.Parameter(torch.zeros(_SIDE, _SIDE, dtype=dtype))
    optimizer = make_optimizer([{"params": [weight]}])
    weight.grad = torch.zeros_like(weight)
    with torch.compiler.set_stance("force_eager"):  # to compile a quantised optimizer takes a minute
        try:
            optimizer.step()
        except Exception as error:  # code of an optimizer
            raise ValueError(f"{type(optimizer).__name__} cannot be counted: {error}") from error
    stored = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(t.numel() * t.element_size() for value in stored for t in _plain(value)) / weight.numel()


def _plain(value: Tensor) -> Iterator[Tensor]:
    """Yields the tensors that a tensor consists of; those of quantised states are several."""
    if not is_traceable_wrapper_subclass(value):
        yield value
        return
    for name in value.__tensor_flatten__()[0]:
        yield from _plain(getattr(value, name))
