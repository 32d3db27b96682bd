"""Prefetching by a thread.

Decoding and tensor kernels release the interpreter's lock, so one thread beside the computation costs little. A run
that needs more uses worker processes, `num_workers`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Item = TypeVar("Item")

_END = object()


def read_ahead(read: Callable[[Item], T], items: Iterable[Item], ahead: int = 2) -> Iterator[T]:
    """Reads items in a thread and yields the results in order.

    Args:
        read: Reads one item; its exceptions are raised when the item would be yielded.
        items: The items; they are iterated over in the thread too.
        ahead: Number of items to prefetch.
    """
    waiting: deque[Future[T | object]] = deque()
    order = iter(items)

    def read_next() -> T | object:
        for item in order:
            return read(item)
        return _END

    with ThreadPoolExecutor(1, thread_name_prefix="reading") as pool:
        try:
            while True:
                while len(waiting) <= ahead:
                    waiting.append(pool.submit(read_next))
                found = waiting.popleft().result()
                if found is _END:
                    return
                yield found  # type: ignore[misc]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
