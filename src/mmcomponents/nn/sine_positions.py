"""Sine embeddings of places (Carion et al. 2020, arXiv 2005.12872) and of boxes (Liu et al. 2022, arXiv 2201.12329)."""

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
    """
    return sine_embedding(centres.flip(-1), width // 2, temperature)
