"""Rotation of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.batch import Exact


def apply_rotary(x: Tensor, rotary: Exact) -> Tensor:
    """Rotates the two halves of each head against each other (Su et al. 2021, section 3.2, in the half-split form).

    Qwen, Llama and InternLM checkpoints pair channel i with i + D/2; the paper's pairs (2i, 2i+1) differ from that by a
    permutation of the channels.

    Args:
        x: `[T, H, D]` queries or keys of any float type.
        rotary: Cosine and sine, fp32 `[T, D]`.

    Returns:
        `[T, H, D]` of the type of `x`; the arithmetic is fp32.
    """
    cos, sin = rotary
    low, high = x.float().chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (x.float() * cos[:, None] + turned * sin[:, None]).to(x.dtype)
