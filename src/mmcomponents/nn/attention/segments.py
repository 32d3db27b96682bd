"""The borders of a pack as attention needs them."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Segments:
    """Borders of the segments of a pack, made once for all layers of one call.

    A plain class, so that what is derived from the borders (the lengths on the host, a mask object of a backend) is
    made once and no precision policy looks inside.

    Args:
        cu_seqlens: `[S+1]` int32 borders.
        max_seqlen: Length of the longest segment.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int) -> None:
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen

    @classmethod
    def uniform(cls, count: int, length: int, device: torch.device) -> Segments:
        """`count` segments of one length, such as the tiles of an encoder."""
        segments = cls(torch.arange(0, (count + 1) * length, length, dtype=torch.int32, device=device), length)
        segments.__dict__["lengths"] = [length] * count  # known here: no read from the device later
        return segments

    @cached_property
    def lengths(self) -> list[int]:
        """Lengths on the host. Reads the device once where the borders lie on one."""
        lengths: list[int] = self.cu_seqlens.diff().tolist()
        return lengths

    @cached_property
    def is_uniform(self) -> bool:
        """Whether all segments have one length."""
        return len(set(self.lengths)) == 1
