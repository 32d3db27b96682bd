"""Histograms of sizes, with few bins that have round boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmcomponents.data.format.columns import Integers

MOST_BINS = 16
_STEPS = (
    (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1,),
)
"""Round boundaries within a decade, from fine to coarse."""


@dataclass(frozen=True)
class Bin:
    """Samples of similar size.

    Attributes:
        low: Smallest size.
        high: Largest size, included.
        count: Number of samples.
    """

    low: int
    high: int
    count: int

    @property
    def label(self) -> str:
        """The sizes as text, such as "100–149"."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Histogram:
    """Distribution of the sizes of samples.

    Attributes:
        samples: Number of samples.
        least: Smallest size.
        median: Median size.
        mean: Mean size.
        p95: 95th percentile.
        most: Largest size.
        bins: Adjacent bins in ascending order.
    """

    samples: int
    least: int
    median: int
    mean: float
    p95: int
    most: int
    bins: list[Bin]

    @classmethod
    def of(cls, counts: Integers, logarithmic: bool) -> Histogram:
        """Computes a histogram.

        Args:
            counts: `[largest + 1]` number of samples of each size.
            logarithmic: Whether the bins' width grows with the size; else it is constant, with a separate bin for 0.
        """
        sizes = np.flatnonzero(counts)
        if not len(sizes):
            return cls(0, 0, 0, 0.0, 0, 0, [])
        low, high, total = int(sizes[0]), int(sizes[-1]), int(counts.sum())
        running = np.cumsum(counts)
        boundaries = _growing(low, high) if logarithmic and high >= 2 * low > 0 else _even(low, high)
        bins = [Bin(a, b - 1, int(counts[a:b].sum())) for a, b in pairwise(boundaries)]
        bins[0] = Bin(max(low, bins[0].low), bins[0].high, bins[0].count)
        bins[-1] = Bin(bins[-1].low, min(high, bins[-1].high), bins[-1].count)
        return cls(
            total,
            low,
            int(np.searchsorted(running, 0.5 * total)),
            float((sizes * counts[sizes]).sum() / total),
            int(np.searchsorted(running, 0.95 * total)),
            high,
            bins,
        )


def _growing(low: int, high: int) -> list[int]:
    """Returns round boundaries with similar ratios."""
    boundaries = [low, high + 1]
    for steps in _STEPS:
        every = sorted({int(step * 10**power) for power in range(len(str(high)) + 1) for step in steps})
        begin = max(size for size in every if size <= low)
        boundaries = [begin, *(size for size in every if begin < size <= high)]
        boundaries.append(next(size for size in every if size > boundaries[-1]))
        if len(boundaries) <= MOST_BINS + 1:
            break
    return boundaries


def _even(low: int, high: int) -> list[int]:
    """Returns round boundaries at equal distances; 0 has a bin of its own."""
    widths = (step * 10**power for power in range(len(str(high)) + 1) for step in (1, 2, 5))
    width = next(width for width in widths if (high - low) // width < MOST_BINS)
    if low == 0:
        return [0, *range(1, high + width + 1, width)] if high else [0, 1]
    begin = low // width * width
    return list(range(begin, high + width + 1, width))
