"""Cache of keys and values."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from mmcomponents.batch import Layout
from mmcomponents.nn.attention.segments import Segments

_GROWTH = 64
"""Minimum number of positions by which a cache grows."""


class KVCache:
    """Keys and values of S segments, in one block `[S, Hkv, capacity, D]` each per layer.

    The model calls `begin` before the layers and `commit` after them; each layer extends its own block, identified by
    any string, so that several stacks can share a cache.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Number of cached positions of each segment."""
        self.next_lengths: list[int] = []
        """`lengths` including the positions of the current call."""
        self._blocks: dict[str, tuple[Tensor, Tensor]] = {}
        self._segment = torch.empty(0)
        self._offset = torch.empty(0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cached."""
        return not any(self.lengths)

    def begin(self, layout: Layout) -> None:
        """Prepares for the positions of a layout, which follow the cached positions of each segment.

        Raises:
            ValueError: Layout and cache have different numbers of segments.
        """
        new = Segments(layout.cu_seqlens, layout.max_seqlen).lengths
        self.lengths = self.lengths or [0] * len(new)
        if len(new) != len(self.lengths):
            raise ValueError(f"the cache holds {len(self.lengths)} segments and the pack has {len(new)}")
        self.next_lengths = [a + b for a, b in zip(self.lengths, new, strict=True)]
        device = layout.cu_seqlens.device
        self._segment = layout.segment_of_token()
        offsets = chain.from_iterable(range(a, b) for a, b in zip(self.lengths, self.next_lengths, strict=True))
        self._offset = torch.tensor(list(offsets), device=device)

    def extend(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends the new positions `[T, Hkv, D]` of a layer and returns its blocks `[S, Hkv, capacity, D]`.

        Keys and values may differ in width D.
        """
        blocks = self._blocks.get(layer)
        capacity = blocks[0].shape[2] if blocks else 0
        needed = max(self.next_lengths)
        if needed > capacity:
            longer = max(needed + _GROWTH, 2 * capacity)
            grown = (
                k.new_zeros(len(self.lengths), k.shape[1], longer, k.shape[2]),
                v.new_zeros(len(self.lengths), v.shape[1], longer, v.shape[2]),
            )
            if blocks:
                for old, new in zip(blocks, grown, strict=True):
                    new[:, :, :capacity] = old
            blocks = grown
        assert blocks is not None
        for block, value in zip(blocks, (k, v), strict=True):
            block[self._segment, :, self._offset] = value.to(block.dtype)
        self._blocks[layer] = blocks
        return blocks

    def commit(self) -> None:
        """Marks the positions of the current call as cached."""
        self.lengths = self.next_lengths

    def fork(self) -> KVCache:
        """Returns a copy that shares nothing with this cache, so that a prefix can be continued in several ways."""
        copy = KVCache()
        copy.lengths, copy.next_lengths = list(self.lengths), list(self.next_lengths)
        copy._blocks = {name: (k.clone(), v.clone()) for name, (k, v) in self._blocks.items()}
        copy._segment, copy._offset = self._segment.clone(), self._offset.clone()
        return copy

    def select(self, segments: list[int]) -> None:
        """Keeps only these segments, in this order; a segment may be repeated."""
        self.lengths = [self.lengths[s] for s in segments]
        self._blocks = {name: (k[segments], v[segments]) for name, (k, v) in self._blocks.items()}
