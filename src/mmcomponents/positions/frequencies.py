"""Rotary frequencies and tables."""

from __future__ import annotations

from functools import lru_cache

import torch
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor

from mmcomponents.batch import TICKS, Exact


@lru_cache(maxsize=256)
def frequencies(head_dim: int, base: float, rescale: float, device: torch.device) -> Tensor:
    """Angular frequency of each channel pair, fp32 `[head_dim / 2]`.

    rotary-embedding-torch keeps them as a parameter, which casts and sharding would reach; here they are a plain tensor
    made on the CPU (also inside a meta-device context) and remembered for each device.

    Args:
        head_dim: Width of a head.
        base: Base of the geometric series (theta).
        rescale: NTK-aware factor: the base becomes `base * rescale**(head_dim / (head_dim - 2))`.
        device: Where the tensor is to lie.
    """
    with torch.device("cpu"):
        made = RotaryEmbedding(head_dim, theta=base, theta_rescale_factor=rescale, cache_if_possible=False)
    freqs: Tensor = made.freqs
    return freqs.detach().float().clone().to(device)


def tables(ticks: Tensor, freqs: Tensor) -> Exact:
    """Cosine and sine for positions in ticks.

    The angle is made in fp32 from the whole part and the fraction, so a fraction survives at any distance; without a
    fraction the digits are those of transformers.

    Args:
        ticks: int64 `[T]`.
        freqs: fp32 `[head_dim / 2]`, or `[T, head_dim / 2]` where the base depends on the segment.

    Returns:
        Cosine and sine, fp32 `[T, head_dim]` each.
    """
    # Without autocast: it would make the product in half precision, which knows no position above 256.
    with torch.autocast(ticks.device.type, enabled=False):
        whole = ticks.div(TICKS, rounding_mode="floor").float()[:, None]
        fraction = (ticks % TICKS).float()[:, None] / TICKS
        angles = whole * freqs + fraction * freqs
        angles = torch.cat((angles, angles), dim=-1)
        return Exact(angles.cos(), angles.sin())
