"""Conversion between packs and padded batches, for models without support for packs."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mmcomponents.batch import Layout
from mmcomponents.nn.attention.segments import Segments


class Padded:
    """Positions of the tokens of a pack in a batch `[S, L]` with one row per segment.

    Without cached positions, the batch is padded on the right. With cached positions, queries and keys are padded on
    the left: the last new position of each segment is in the last column and attends to the last column of the keys, so
    that causal and sliding-window masks that compare columns are correct for segments of different lengths.

    Args:
        layout: Boundaries of the new positions.
        past: Number of cached positions of each segment; None or all 0: no cache.
    """

    def __init__(self, layout: Layout, past: list[int] | None = None) -> None:
        self.lengths = Segments(layout.cu_seqlens, layout.max_seqlen).lengths
        self.past = past or [0] * len(self.lengths)
        self.goes_on = any(self.past)
        self.known = [a + b for a, b in zip(self.past, self.lengths, strict=True)]
        """Number of positions of each segment, including cached ones."""
        self.columns, self.key_columns = max(self.lengths), max(self.known)
        self._device = layout.cu_seqlens.device
        self._segment = layout.segment_of_token()
        self._offset = torch.arange(layout.num_tokens, device=self._device) - layout.cu_seqlens[self._segment].long()

    @property
    def num_tokens(self) -> int:
        """T, the number of new positions of all segments."""
        return sum(self.lengths)

    @property
    def is_even(self) -> bool:
        """Whether the queries have no padding."""
        return min(self.lengths) == self.columns

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token within its segment, int64 `[S, L]`; 0 at padding."""
        return self.pad(self._offset + self._ints(self.past)[self._segment])

    @cached_property
    def mask(self) -> Tensor:
        """Whether a column of the keys is a position of the segment, bool `[S, K]`."""
        columns, known = torch.arange(self.key_columns, device=self._device), self._ints(self.known)[:, None]
        return columns >= self.key_columns - known if self.goes_on else columns < known

    def pad(self, x: Tensor) -> Tensor:
        """Converts `[T, …]` to `[S, L, …]`, padded with zeros."""
        shape = (len(self.lengths), self.columns)
        if not self.is_even:
            x = x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, self._indices, x)
        return x.reshape(*shape, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """Converts `[S, L, …]` to `[T, …]`."""
        flat = x.flatten(0, 1)
        return flat if self.is_even else flat[self._indices]

    def align(self, block: Tensor) -> Tensor:
        """Converts a cache block `[S, H, capacity, D]`, filled from the left, to padded keys `[S, H, K, D]`."""
        if not self.goes_on or min(self.known) == self.key_columns:
            return block[:, :, : self.key_columns]
        columns = torch.arange(self.key_columns, device=self._device)
        source = (columns - self.key_columns + self._ints(self.known)[:, None]).clamp(min=0)
        return block.gather(2, source[:, None, :, None].expand(-1, block.shape[1], -1, block.shape[3]))

    @cached_property
    def _indices(self) -> Tensor:
        """Index of each token in the flattened batch, `[T]`."""
        shift = self.columns - self._ints(self.lengths) if self.goes_on else self._ints([0] * len(self.lengths))
        return self._segment * self.columns + shift[self._segment] + self._offset

    def _ints(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self._device)
