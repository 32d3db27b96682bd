from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mmcomponents.data.loading.prefetch import read_ahead


def test_items_come_in_order_and_are_read_before_they_are_asked_for() -> None:
    read: list[int] = []

    def slow(item: int) -> int:
        time.sleep(0.001 * (5 - item % 5))
        read.append(item)
        return item * 10

    batches = read_ahead(slow, range(20), ahead=3)
    assert next(batches) == 0
    deadline = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert read == [0, 1, 2, 3], "three ahead, and no more"
    assert list(batches) == [item * 10 for item in range(1, 20)]


def test_an_error_comes_when_its_turn_does() -> None:
    def read(item: int) -> int:
        if item == 2:
            raise KeyError("broken")
        return item

    batches = read_ahead(read, range(5))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(KeyError, match="broken"):
        next(batches)


def test_items_are_asked_in_the_thread_and_it_ends_with_the_reader() -> None:
    names = set()

    def items() -> Iterator[int]:
        for item in range(1000):
            names.add(threading.current_thread().name)
            yield item

    batches = read_ahead(lambda item: item, items())
    assert next(batches) == 0
    batches.close()  # type: ignore[attr-defined]
    assert names == {"reading_0"}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reading")]
    assert list(read_ahead(str, [])) == []
