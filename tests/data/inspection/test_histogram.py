from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mmcomponents.data.inspection import Histogram


def counts_of(*sizes: int) -> np.ndarray:
    return np.bincount(sizes)


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize(
    "sizes", [(5,), (0,), (0, 1), (1, 1, 2), (7, 9000), (30, 136), (3, 40_000_000), (15_000, 16_384)]
)
def test_bins_cover_all_sizes_without_a_gap(sizes: tuple[int, ...], logarithmic: bool) -> None:
    found = Histogram.of(counts_of(*sizes), logarithmic)
    assert sum(row.count for row in found.bins) == found.samples == len(sizes)
    assert (found.bins[0].low, found.bins[-1].high) == (min(sizes), max(sizes)) == (found.least, found.most)
    assert all(first.high + 1 == second.low for first, second in pairwise(found.bins))
    assert all(row.low <= row.high for row in found.bins)
    assert len(found.bins) <= 16


def test_bins_of_tokens_grow_with_the_size_and_those_of_tiles_do_not() -> None:
    tokens = Histogram.of(counts_of(20, 150, 150, 9000), logarithmic=True)
    assert [row.label for row in tokens.bins[:4]] == ["20–29", "30–49", "50–69", "70–99"]
    assert [row.count for row in tokens.bins if row.count] == [1, 2, 1]
    assert [row.label for row in Histogram.of(counts_of(0, 3, 40), logarithmic=False).bins[:3]] == ["0", "1–5", "6–10"]


def test_what_is_said_of_all_sizes() -> None:
    found = Histogram.of(counts_of(*range(1, 101)), logarithmic=True)
    assert (found.median, found.p95, found.mean) == (50, 95, 50.5)
    assert Histogram.of(np.zeros(1, np.int64), logarithmic=True).bins == []
