"""Keys and values of earlier positions."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from mmcomponents.batch import Layout
from mmcomponents.nn.attention.segments import Segments

_ROOM = 64
"""Positions by which a cache grows at least."""


class KVCache:
    """Keys and values of S segments, one block `[S, Hkv, room, D]` of each for every layer.

    The composite opens a call with `begin` and closes it with `commit`; the layers in between `extend` their own block,
    named by any string, so that several stacks share one cache.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Cached positions of each segment."""
        self.next_lengths: list[int] = []
        """The same with the call that is under way."""
        self._blocks: dict[str, tuple[Tensor, Tensor]] = {}
        self._segment = torch.empty(0)
        self._offset = torch.empty(0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cached."""
        return not any(self.lengths)

    def begin(self, layout: Layout) -> None:
        """Makes ready for the positions of a layout, which follow what is cached of each segment.

        Raises:
            ValueError: The layout has another number of segments than the cache.
        """
        new = Segments(layout.cu_seqlens, layout.max_seqlen).lengths
        self.lengths = self.lengths or [0] * len(new)
        if len(new) != len(self.lengths):
            raise ValueError(f"the cache holds {len(self.lengths)} segments and the pack has {len(new)}")
        self.next_lengths = [a + b for a, b in zip(self.lengths, new, strict=True)]
        device = layout.cu_seqlens.device
        self._segment = layout.segment_of_token()
        places = chain.from_iterable(range(a, b) for a, b in zip(self.lengths, self.next_lengths, strict=True))
        self._offset = torch.tensor(list(places), device=device)

    def extend(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new positions `[T, Hkv, D]` of one layer; returns its blocks `[S, Hkv, room, D]`.

        Keys and values may differ in their width D.
        """
        blocks = self._blocks.get(layer)
        room = blocks[0].shape[2] if blocks else 0
        needed = max(self.next_lengths)
        if needed > room:
            longer = max(needed + _ROOM, 2 * room)
            grown = (
                k.new_zeros(len(self.lengths), k.shape[1], longer, k.shape[2]),
                v.new_zeros(len(self.lengths), v.shape[1], longer, v.shape[2]),
            )
            if blocks:
                for old, new in zip(blocks, grown, strict=True):
                    new[:, :, :room] = old
            blocks = grown
        assert blocks is not None
        for block, value in zip(blocks, (k, v), strict=True):
            block[self._segment, :, self._offset] = value.to(block.dtype)
        self._blocks[layer] = blocks
        return blocks

    def commit(self) -> None:
        """Counts the positions of the call as cached."""
        self.lengths = self.next_lengths

    def select(self, segments: list[int]) -> None:
        """Keeps these segments alone, in this order; a segment may be kept several times."""
        self.lengths = [self.lengths[s] for s in segments]
        self._blocks = {name: (k[segments], v[segments]) for name, (k, v) in self._blocks.items()}
