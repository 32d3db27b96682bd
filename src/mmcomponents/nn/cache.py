"""Cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from mmcomponents.batch import Layout
from mmcomponents.nn.attention.segments import Segments

_GROWTH = 64
"""Minimum number of positions by which a cache grows."""


@dataclass
class _State:
    """Contents of a cache, which its views share."""

    lengths: list[int] = field(default_factory=list)
    next_lengths: list[int] = field(default_factory=list)
    blocks: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    segment: Tensor = field(default_factory=lambda: torch.empty(0))
    offset: Tensor = field(default_factory=lambda: torch.empty(0))
    extended: set[str] = field(default_factory=set)
    """Layers that were extended in the present call."""
    last_ticks: Tensor | None = None
    next_ticks: Tensor | None = None
    inner: dict[str, KVCache] = field(default_factory=dict)
    """Caches of other sequences of the same segments, by name."""


class KVCache:
    """Keys and values of S segments, in one block `[S, Hkv, capacity, D]` each per layer.

    The model calls `begin` before the layers and `commit` after them; each layer extends its own block, identified by
    any string. A second stack of layers, such as that of an embedder, gets a `view`, or an `inner` cache for a sequence
    of another length.
    """

    def __init__(self) -> None:
        self._state = _State()
        self._prefix = ""

    @property
    def lengths(self) -> list[int]:
        """Number of cached positions of each segment."""
        return self._state.lengths

    @lengths.setter
    def lengths(self, lengths: list[int]) -> None:
        if self.has_inner and sum(lengths) < sum(self._state.lengths):
            raise ValueError("a cache with inner caches cannot be shortened: their positions are not known")
        self._state.lengths = lengths

    @property
    def has_inner(self) -> bool:
        """Whether there are caches of other sequences, see `inner`."""
        return bool(self._state.inner)

    @property
    def next_lengths(self) -> list[int]:
        """`lengths` including the positions of the current call."""
        return self._state.next_lengths

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cached."""
        return not any(self.lengths)

    def view(self, prefix: str) -> KVCache:
        """Returns a cache with the same positions, whose layers have names of their own.

        Args:
            prefix: Put before the names, such as "embedder.".
        """
        made = KVCache()
        made._state, made._prefix = self._state, self._prefix + prefix
        return made

    def inner(self, name: str) -> KVCache:
        """Returns the cache of another sequence of the same segments, such as one with more positions for an image.

        The stack of layers that it belongs to calls `begin` with the layout of that sequence; it is committed, forked
        and selected with this cache.

        Args:
            name: Name of the sequence; the first call with a name makes its cache.
        """
        return self._state.inner.setdefault(self._prefix + name, KVCache())

    @property
    def last_ticks(self) -> Tensor | None:
        """Position of the last cached token of each segment in ticks, `[S]`, if `keep_ticks` was called."""
        return self._state.last_ticks

    def keep_ticks(self, ticks: Tensor) -> None:
        """Keeps the positions `[S]` of the last tokens of the current call, which are those of the cache after it."""
        self._state.next_ticks = ticks

    def begin(self, layout: Layout) -> None:
        """Prepares for the positions of a layout, which follow the cached positions of each segment.

        Raises:
            ValueError: Layout and cache have different numbers of segments.
        """
        state, new = self._state, Segments(layout.cu_seqlens, layout.max_seqlen).lengths
        state.lengths = state.lengths or [0] * len(new)
        if len(new) != len(state.lengths):
            raise ValueError(f"the cache holds {len(state.lengths)} segments and the pack has {len(new)}")
        state.next_lengths = [a + b for a, b in zip(state.lengths, new, strict=True)]
        state.segment = layout.segment_of_token()
        offsets = chain.from_iterable(range(a, b) for a, b in zip(state.lengths, state.next_lengths, strict=True))
        state.offset = torch.tensor(list(offsets), device=layout.cu_seqlens.device)
        state.extended.clear()

    def extend(self, layer: str, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends the new positions of a layer.

        Keys and values may differ in width D.

        Args:
            layer: Name of the layer.
            k: `[T, Hkv, D]` keys of the call.
            v: `[T, Hkv, D]` values of the call.

        Returns:
            Blocks of all keys and of all values, `[S, Hkv, capacity, D]` each.

        Raises:
            ValueError: A layer of this name has been extended in the same call.
        """
        state, name = self._state, self._prefix + layer
        if name in state.extended:
            raise ValueError(
                f"two layers extend {name!r} of the cache in one call and would overwrite each other: give one stack a"
                " view of the cache (KVCache.view)"
            )
        blocks = state.blocks.get(name)
        capacity = blocks[0].shape[2] if blocks else 0
        needed = max(state.next_lengths)
        if needed > capacity:
            longer = max(needed + _GROWTH, 2 * capacity)
            grown = (
                k.new_zeros(len(state.lengths), k.shape[1], longer, k.shape[2]),
                v.new_zeros(len(state.lengths), v.shape[1], longer, v.shape[2]),
            )
            if blocks:
                for old, new in zip(blocks, grown, strict=True):
                    new[:, :, :capacity] = old
            blocks = grown
        assert blocks is not None
        for block, value in zip(blocks, (k, v), strict=True):
            block[state.segment, :, state.offset] = value.to(block.dtype)
        state.blocks[name] = blocks
        state.extended.add(name)
        return blocks

    def commit(self) -> None:
        """Marks the positions of the current call as cached."""
        self._state.lengths, self._state.last_ticks = self._state.next_lengths, self._state.next_ticks
        for cache in self._state.inner.values():
            cache.commit()

    def fork(self) -> KVCache:
        """Returns a copy that shares nothing with this cache, so that a prefix can be continued in several ways."""
        copy, state = KVCache(), self._state
        copy._prefix = self._prefix
        copy._state = _State(
            list(state.lengths),
            list(state.next_lengths),
            {name: (k.clone(), v.clone()) for name, (k, v) in state.blocks.items()},
            state.segment.clone(),
            state.offset.clone(),
            set(state.extended),
            None if state.last_ticks is None else state.last_ticks.clone(),
            None if state.next_ticks is None else state.next_ticks.clone(),
            {name: cache.fork() for name, cache in state.inner.items()},
        )
        return copy

    def select(self, segments: list[int]) -> None:
        """Keeps only these segments, in this order; a segment may be repeated."""
        state = self._state
        state.lengths = [state.lengths[s] for s in segments]
        state.blocks = {name: (k[segments], v[segments]) for name, (k, v) in state.blocks.items()}
        state.last_ticks = None if state.last_ticks is None else state.last_ticks[segments]
        for cache in state.inner.values():
            cache.select(segments)
