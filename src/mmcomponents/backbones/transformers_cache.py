"""Adapter from `KVCache` to the cache interface of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.padding import Padded


class SegmentCache(Cache):  # type: ignore[misc]
    """View of a `KVCache` for one call: receives padded keys, stores them packed and returns them padded.

    It has no state of its own, so that segments are selected in the `KVCache` only.

    Args:
        cache: The cache, prepared for the call.
        padded: Padding of the call.
    """

    def __init__(self, cache: KVCache, padded: Padded) -> None:
        super().__init__(layers=[])
        self._cache = cache
        self._padded = padded

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends keys and values and returns all cached ones.

        Args:
            key_states: `[S, H, L, D]` keys of the call, padded.
            value_states: `[S, H, L, D]` likewise.
            layer_idx: Number of the layer.
            args: What transformers passes besides; not used.
            kwargs: Likewise.

        Returns:
            Keys and values, `[S, H, K, D]` each; in a prefill those of the call.
        """
        packed = (self._padded.unpad(x.transpose(1, 2)) for x in (key_states, value_states))
        blocks = self._cache.extend(f"transformers.{layer_idx}", *packed)
        if not self._padded.goes_on:  # a prefill attends only to itself
            return key_states, value_states
        keys, values = (self._padded.align(block) for block in blocks)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Returns the number of key columns before those of the call."""
        return self._padded.key_columns - self._padded.columns

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Returns the number of key columns and the index of the first one."""
        return self._padded.key_columns, 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Returns -1: no limit."""
        return -1
