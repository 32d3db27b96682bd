"""Order of the samples of a group, shuffled by shards and within a window.

The shards are shuffled first, then the samples of as many shards as a window holds. Data smaller than a window are
shuffled completely; for larger data, at most two windows of each group are in use at any time.
"""

from __future__ import annotations

import numpy as np

from mmcomponents.data.format.columns import Integers, boundaries

WINDOW = 1_000_000
"""Number of samples that are shuffled with each other, over all groups."""
LEAST_WINDOW = 10_000


class Order:
    """Permutation of the samples of a group with random access.

    Args:
        counts: `[shards]` numbers of samples of the group.
        key: Non-negative numbers that seed the order; None: the order of the shards.
        window: Number of samples that are shuffled with each other.
    """

    def __init__(self, counts: Integers, key: tuple[int, ...] | None, window: int = WINDOW) -> None:
        self.key, self.window = key, window
        self.shards: Integers = np.flatnonzero(counts)
        if key is not None:
            self.shards = np.random.default_rng(key).permutation(self.shards)
        self.begins: Integers = boundaries(counts[self.shards])
        self._shuffled: dict[int, Integers] = {}

    def __len__(self) -> int:
        return int(self.begins[-1])

    def __call__(self, places: Integers) -> tuple[Integers, Integers]:
        """Returns the shard, and the rank among the group's samples in it, at positions of the order.

        Args:
            places: `[n]` positions from 0 to len - 1.
        """
        if self.key is not None:
            places = self._shuffle(places)
        position = np.searchsorted(self.begins, places, side="right") - 1
        return self.shards[position], places - self.begins[position]

    def _shuffle(self, places: Integers) -> Integers:
        windows = places // self.window
        moved = np.empty_like(places)
        for window in np.unique(windows).tolist():
            here = windows == window
            first = window * self.window
            moved[here] = first + self._window(window)[places[here] - first]
        return moved

    def _window(self, number: int) -> Integers:
        if number not in self._shuffled:
            while len(self._shuffled) > 1:
                del self._shuffled[next(iter(self._shuffled))]
            length = min(self.window, len(self) - number * self.window)
            assert self.key is not None
            self._shuffled[number] = np.random.default_rng((*self.key, number + 1)).permutation(length)
        return self._shuffled[number]
