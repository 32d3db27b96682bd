"""How sizes are distributed: exact counts, and few bins with round borders to show them by."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmcomponents.data.rows import Integers

MOST_BINS = 16
_STEPS = (
    (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1,),
)
"""Round borders within a decade, from fine to coarse."""


@dataclass(frozen=True)
class Bin:
    """Samples of similar size.

    Attributes:
        low: Least size.
        high: Largest size, included.
        count: Samples.
    """

    low: int
    high: int
    count: int

    @property
    def label(self) -> str:
        """As "100–149"."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Histogram:
    """Sizes of samples.

    Attributes:
        samples: How many there are.
        least: Smallest size.
        median: Half of the samples are not larger.
        mean: Of all.
        p95: 95 in a hundred are not larger.
        most: Largest size.
        bins: From the smallest to the largest, without a gap.
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
        """Makes a histogram.

        Args:
            counts: `[largest + 1]` samples of each size.
            logarithmic: Whether bins grow with the size; else they are equally wide, and 0 has one of its own.
        """
        sizes = np.flatnonzero(counts)
        if not len(sizes):
            return cls(0, 0, 0, 0.0, 0, 0, [])
        low, high, total = int(sizes[0]), int(sizes[-1]), int(counts.sum())
        running = np.cumsum(counts)
        borders = _growing(low, high) if logarithmic and high >= 2 * low > 0 else _even(low, high)
        bins = [Bin(a, b - 1, int(counts[a:b].sum())) for a, b in pairwise(borders)]
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
    """Round borders of which each is larger than the one before by a like factor."""
    borders = [low, high + 1]
    for steps in _STEPS:
        every = sorted({int(step * 10**power) for power in range(len(str(high)) + 1) for step in steps})
        begin = max(border for border in every if border <= low)
        borders = [begin, *(border for border in every if begin < border <= high)]
        borders.append(next(border for border in every if border > borders[-1]))
        if len(borders) <= MOST_BINS + 1:
            break
    return borders


def _even(low: int, high: int) -> list[int]:
    """Round borders with equal distances; a 0 is alone."""
    widths = (step * 10**power for power in range(len(str(high)) + 1) for step in (1, 2, 5))
    width = next(width for width in widths if (high - low) // width < MOST_BINS)
    if low == 0:
        return [0, *range(1, high + width + 1, width)] if high else [0, 1]
    begin = low // width * width
    return list(range(begin, high + width + 1, width))
