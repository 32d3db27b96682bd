from __future__ import annotations

import numpy as np
import pytest

from mmcomponents.data.packing.order import Order

COUNTS = np.array([5, 0, 7, 3, 10])


def entries(order: Order, places: np.ndarray) -> list[tuple[int, int]]:
    shards, ranks = order(places)
    return list(zip(shards.tolist(), ranks.tolist(), strict=True))


@pytest.mark.parametrize("window", [1, 4, 25, 1000])
def test_each_sample_stands_at_one_place(window: int) -> None:
    order = Order(COUNTS, (3, 1), window)
    found = entries(order, np.arange(len(order)))
    assert sorted(found) == [(shard, rank) for shard, count in enumerate(COUNTS) for rank in range(count)]
    backwards = np.arange(len(order))[::-1]
    assert entries(Order(COUNTS, (3, 1), window), backwards) == found[::-1]
    assert entries(Order(COUNTS, (3, 2), window), np.arange(len(order))) != found


def test_without_a_key_the_order_is_that_of_the_shards() -> None:
    order = Order(COUNTS, None)
    assert entries(order, np.arange(len(order))) == [
        (s, rank) for s, count in enumerate(COUNTS) for rank in range(count)
    ]


def test_a_window_touches_few_shards() -> None:
    order = Order(np.full(1000, 100), (1,), window=1000)
    for begin in range(0, 100_000, 10_000):
        shards, _ = order(np.arange(begin, begin + 1000))
        assert len(np.unique(shards)) == 10
    whole, _ = Order(np.full(10, 100), (1,))(np.arange(100))
    assert len(np.unique(whole)) == 10
