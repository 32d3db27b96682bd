"""Sinusoidal embedding of the noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def time_embedding(level: Tensor, width: int) -> Tensor:
    """Embeds noise levels: sines, then cosines, of wavelengths from 2 pi to 20,000 pi, as in Dita's released code.

    Args:
        level: `[n]`.
        width: Width of the embedding, even and at least 4.

    Returns:
        fp32 `[n, width]`.
    """
    half = width // 2
    waves = torch.exp(torch.arange(half, device=level.device) * (-math.log(10_000) / (half - 1)))
    angles = level.float()[:, None] * waves
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
