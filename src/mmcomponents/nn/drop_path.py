"""Stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops a residual branch for random samples during training (Huang et al. 2016, arXiv 1603.09382).

    Args:
        rate: Probability that the branch of a sample is dropped; kept values are divided by `1 - rate`.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate {rate} is not in [0, 1)")
        self.rate = rate
        # Compiled code would be made for each rate if it were a number. On the CPU, as the numbers of Python are.
        self._rate = torch.tensor(rate, dtype=torch.float64, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[N, ...]` to `[N, ...]`."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self._rate
        return x * keep.to(x.dtype) / (1.0 - self._rate)
