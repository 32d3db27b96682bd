"""Sine embeddings of places (Carion et al. 2020, arXiv 2005.12872), boxes (arXiv 2201.12329) and noise levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_embedding(shares: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Embeds numbers from 0 to 1, with sine and cosine side by side for each frequency.

    Args:
        shares: `[..., k]`.
        width: Width of the embedding of each number, even.
        temperature: Ratio of the largest to the smallest wavelength.

    Returns:
        fp32 `[..., k * width]`.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=shares.device)
    waves = temperature ** (-2 * steps / width)
    angles = 2 * math.pi * shares.float()[..., None] * waves
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


def grid_embedding(centres: Tensor, width: int, temperature: float = 10_000.0) -> Tensor:
    """Embeds places: the first half of the width is that of y, the second that of x.

    Args:
        centres: `[..., 2]` as (x, y), from 0 to 1 within the image.
        width: Width of the embedding, a multiple of 4.
        temperature: See `sine_embedding`.

    Returns:
        fp32 `[..., width]`.
    """
    return sine_embedding(centres.flip(-1), width // 2, temperature)


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
