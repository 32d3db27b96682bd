"""Rotary frequencies and tables."""

from __future__ import annotations

from functools import lru_cache

import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor

from mmcomponents.batch import TICKS, Exact
from mmcomponents.nn.autocast import without_autocast


@lru_cache(maxsize=256)
def frequencies(head_dim: int, base: float, rescale: float, device: torch.device) -> Tensor:
    """Computes the angular frequency of each channel pair, fp32 `[head_dim / 2]`.

    rotary-embedding-torch stores them as a parameter, which is subject to casts and sharding; here they are a plain
    tensor, computed on the CPU (also inside a meta-device context) and cached for each device.

    Args:
        head_dim: Width of a head.
        base: Base of the geometric series (theta).
        rescale: NTK-aware factor; the base becomes `base * rescale**(head_dim / (head_dim - 2))`.
        device: Device of the result.
    """
    with torch.device("cpu"):
        made = RotaryEmbedding(head_dim, theta=base, theta_rescale_factor=rescale, cache_if_possible=False)
    freqs: Tensor = made.freqs
    return freqs.detach().float().clone().to(device)


def tables(ticks: Tensor, freqs: Tensor) -> Exact:
    """Computes cosine and sine for positions in ticks.

    The angle is the fp32 sum of the angles of the integer part and the fraction, so that fractions are not lost at
    large positions; without a fraction, the result is bit for bit that of transformers.

    Args:
        ticks: int64 `[T]`.
        freqs: fp32 `[head_dim / 2]`, or `[T, head_dim / 2]` if the base depends on the segment.

    Returns:
        Cosine and sine, fp32 `[T, head_dim]` each.
    """
    # Without autocast, which would compute the product in half precision: bf16 rounds integers above 256.
    with without_autocast(ticks.device.type):
        whole = ticks.div(TICKS, rounding_mode="floor").float()[:, None]
        fraction = (ticks % TICKS).float()[:, None] / TICKS
        angles = whole * freqs + fraction * freqs
        angles = torch.cat((angles, angles), dim=-1)
        return Exact(angles.cos(), angles.sin())
