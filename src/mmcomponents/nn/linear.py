"""Linear maps optimised for a few input rows on a CPU, as in decoding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FEW_ROWS = 2, 32
_SLICE = 64
"""Minimum number of outputs per product."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes `x @ weight.T + bias`, as `torch.nn.functional.linear` does.

    For a few rows, one large product on a CPU uses half of the available compute; split into slices of the outputs, as
    a batch of products, it takes a fifth to a third less time. A single row is bound by memory and many rows by
    arithmetic: both use torch's function, as do calls that need a gradient.

    Args:
        x: `[…, in]`.
        weight: `[out, in]`.
        bias: `[out]` or None.

    Returns:
        `[…, out]`.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu" or not weight.is_contiguous():
        return nn.functional.linear(x, weight, bias)
    rows = x.numel() // x.shape[-1]
    if not _FEW_ROWS[0] <= rows <= _FEW_ROWS[1]:
        return nn.functional.linear(x, weight, bias)
    slices = next((n for n in (48, 32, 24, 16, 8, 4) if weight.shape[0] % n == 0 and weight.shape[0] >= n * _SLICE), 1)
    if slices == 1:
        return nn.functional.linear(x, weight, bias)
    flat = x.reshape(rows, x.shape[-1])
    parts = torch.bmm(flat.expand(slices, *flat.shape), weight.view(slices, -1, weight.shape[1]).transpose(1, 2))
    out = parts.transpose(0, 1).reshape(*x.shape[:-1], weight.shape[0])
    return out if bias is None else out + bias


class Linear(nn.Linear):
    """`torch.nn.Linear` computed with `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps `[…, in]` to `[…, out]`."""
        return linear(input, self.weight, self.bias)
