"""A pack as a padded batch, for bodies that know nothing of packs."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mmcomponents.batch import Layout
from mmcomponents.nn.attention.segments import Segments


class Padded:
    """Where the tokens of a pack lie in a batch of one row for each segment, `[S, L]`.

    A pack without a past is padded on the right. One that goes on from a cache is padded on the left, keys as well as
    queries: the last new position of each segment then stands in the last column and sees the last column of the keys,
    so that causal and sliding-window masks that compare columns are right for segments of different lengths.

    Args:
        layout: Borders of the new positions.
        past: Cached positions of each segment; None or all 0: a pack without a past.
    """

    def __init__(self, layout: Layout, past: list[int] | None = None) -> None:
        self.lengths = Segments(layout.cu_seqlens, layout.max_seqlen).lengths
        self.past = past or [0] * len(self.lengths)
        self.goes_on = any(self.past)
        self.known = [a + b for a, b in zip(self.past, self.lengths, strict=True)]
        """Positions of each segment, the cached ones included."""
        self.columns, self.key_columns = max(self.lengths), max(self.known)
        self._device = layout.cu_seqlens.device
        self._segment = layout.segment_of_token()
        self._place = torch.arange(layout.num_tokens, device=self._device) - layout.cu_seqlens[self._segment].long()

    @property
    def is_even(self) -> bool:
        """Whether no row of queries is padded."""
        return min(self.lengths) == self.columns

    @cached_property
    def positions(self) -> Tensor:
        """Ordinary position of each token within its segment, int64 `[S, L]`; 0 where there is none."""
        return self.pad(self._place + self._ints(self.past)[self._segment])

    @cached_property
    def mask(self) -> Tensor:
        """Whether a column of the keys is a position of the segment, bool `[S, K]`."""
        columns, known = torch.arange(self.key_columns, device=self._device), self._ints(self.known)[:, None]
        return columns >= self.key_columns - known if self.goes_on else columns < known

    def pad(self, x: Tensor) -> Tensor:
        """`[T, …]` to `[S, L, …]`, with zeros."""
        shape = (len(self.lengths), self.columns)
        if not self.is_even:
            x = x.new_zeros(shape[0] * shape[1], *x.shape[1:]).index_copy(0, self._rows, x)
        return x.reshape(*shape, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """`[S, L, …]` to `[T, …]`."""
        flat = x.flatten(0, 1)
        return flat if self.is_even else flat[self._rows]

    def align(self, block: Tensor) -> Tensor:
        """A cache's block `[S, H, room, D]`, filled from the left, as padded keys `[S, H, K, D]`."""
        if not self.goes_on or min(self.known) == self.key_columns:
            return block[:, :, : self.key_columns]
        columns = torch.arange(self.key_columns, device=self._device)
        source = (columns - self.key_columns + self._ints(self.known)[:, None]).clamp(min=0)
        return block.gather(2, source[:, None, :, None].expand(-1, block.shape[1], -1, block.shape[3]))

    @cached_property
    def _rows(self) -> Tensor:
        """Row of each token in the flattened batch, `[T]`."""
        shift = self.columns - self._ints(self.lengths) if self.goes_on else self._ints([0] * len(self.lengths))
        return self._segment * self.columns + shift[self._segment] + self._place

    def _ints(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self._device)
