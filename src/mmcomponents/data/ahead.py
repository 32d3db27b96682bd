"""Reading ahead by a thread: what a training step waits for is made while the step before computes.

Decoding and tensor kernels release the interpreter's lock, so one thread beside the computation costs little. A recipe
that needs more takes processes, `num_workers`.
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
    """Yields what is read of items, in their order.

    Args:
        read: Reads one; what it raises is raised where the item's turn comes.
        items: Asked in the thread too.
        ahead: Items that are read before they are asked for.
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
