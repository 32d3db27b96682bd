"""Residual block of convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import silu

GROUP = 8
"""Number of channels of a group of the group norms."""


class ResidualConv(nn.Module):
    """Two convolutions with group norms, added to the input.

    Args:
        width: Channels, a multiple of 8.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(width // GROUP, width) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, C, H, W]` to the same shape."""
        out: Tensor = x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return out
