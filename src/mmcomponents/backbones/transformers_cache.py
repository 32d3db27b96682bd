"""Our cache of keys and values, as transformers' layers know one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.padding import Padded


class SegmentCache(Cache):  # type: ignore[misc]
    """One call's view of a `KVCache`: takes padded keys in, keeps them packed, and gives all of a segment padded.

    Nothing is kept here, so that a choice of segments is the business of the `KVCache` alone.

    Args:
        cache: The cache, made ready for the call.
        padded: How the call is padded.
    """

    def __init__(self, cache: KVCache, padded: Padded) -> None:
        super().__init__(layers=[])
        self._cache = cache
        self._padded = padded

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds new `[S, H, L, D]`; returns all that is known, `[S, H, K, D]`."""
        packed = (self._padded.unpad(x.transpose(1, 2)) for x in (key_states, value_states))
        blocks = self._cache.extend(f"transformers.{layer_idx}", *packed)
        if not self._padded.goes_on:  # a prefill sees nothing but itself
            return key_states, value_states
        keys, values = (self._padded.align(block) for block in blocks)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the keys before those of the call."""
        return self._padded.key_columns - self._padded.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns of the keys, and the first of them."""
        return self._padded.key_columns, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No limit."""
        return -1
