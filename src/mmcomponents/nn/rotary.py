"""Rotation of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.batch import Exact


class Rotation:
    """Rotates the two halves of each head against each other (Su et al. 2021, section 3.2, in the half-split form).

    Qwen, Llama and InternLM checkpoints pair channel i with i + D/2; the paper's pairs (2i, 2i+1) differ from that by a
    permutation of the channels. Built once for all layers of a call. The sine contains the sign of the lower half, so
    that swapping the halves is one kernel, a roll.

    Args:
        rotary: Cosine and sine, fp32 `[T, D]`.
    """

    def __init__(self, rotary: Exact) -> None:
        cos, sin = rotary
        self.half = cos.shape[-1] // 2
        self.cos = cos[:, None]
        self.sin = torch.cat((-sin[:, : self.half], sin[:, self.half :]), dim=-1)[:, None]

    def __call__(self, x: Tensor) -> Tensor:
        """Rotates queries or keys `[T, H, D]` in fp32 and returns them in their own dtype, of the same shape."""
        wide = x.float()
        return torch.addcmul(wide * self.cos, wide.roll(self.half, -1), self.sin).to(x.dtype)
