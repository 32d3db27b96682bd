"""Segment boundaries for attention."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Segments:
    """Boundaries of the segments of a pack, built once for all layers of a call.

    A plain class, so that values derived from the boundaries (lengths on the host, a mask object of a backend) are
    computed once and precision plugins do not cast them.

    Args:
        cu_seqlens: `[S+1]` int32 boundaries.
        max_seqlen: Length of the longest segment.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int) -> None:
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen

    @classmethod
    def uniform(cls, count: int, length: int, device: torch.device) -> Segments:
        """Returns `count` segments of one length, such as the tiles of an encoder."""
        segments = cls(torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=device), length)
        segments.__dict__["lengths"] = [length] * count  # avoids reading them from the device
        return segments

    @cached_property
    def lengths(self) -> list[int]:
        """Lengths on the host. The first access reads the boundaries from their device."""
        lengths: list[int] = self.cu_seqlens.diff().tolist()
        return lengths

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all segments have the same length."""
        return len(set(self.lengths)) == 1
