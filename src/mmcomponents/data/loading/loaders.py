"""Loader of packs, with distribution over ranks and workers."""

from __future__ import annotations

import re
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.prefetch import read_ahead
from mmcomponents.data.loading.worker_batches import StalledWorkerError, worker_batches
from mmcomponents.data.packing.pack_plan import Pack

B = TypeVar("B")

WORKER_TIMEOUT = 600.0
"""Default of `data.loading.worker_timeout` in seconds."""


class PackLoader(Generic[B]):
    """Loads items of a dataset in a given order; the batches do not depend on the number of workers.

    It is not a torch `DataLoader`, so that Lightning does not replace its sampler: packs are distributed over ranks
    here. Without workers, a thread prefetches.

    Args:
        dataset: Dataset whose items are complete batches.
        items: Returns the items to read, called at the start of each epoch.
        length: Number of batches in a full epoch.
        num_workers: Number of worker processes; 0: a thread.
        worker_timeout: Seconds in which a worker process must return a batch that is waited for; 0: no limit.
        kind: Class of the batches; others are refused.
    """

    def __init__(
        self,
        dataset: Dataset[B],
        items: Callable[[], Iterable[Any]],
        length: int,
        num_workers: int = 0,
        worker_timeout: float = WORKER_TIMEOUT,
        kind: type = object,
    ) -> None:
        self.dataset, self.items, self.length, self.kind = dataset, items, length, kind
        self.num_workers, self.worker_timeout = num_workers, worker_timeout

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[B]:
        """Yields the remaining batches of an epoch.

        Raises:
            DataError: Reading failed, a batch is of another class, or a worker process died or returned nothing for too
                long.
        """
        pending: deque[Any] = deque()
        order = iter(self.items())

        def remember() -> Iterator[Any]:
            for item in order:
                pending.append(item)
                yield item

        if self.num_workers:
            batches = worker_batches(self.dataset, remember, self.num_workers, self.worker_timeout)
        else:
            batches = read_ahead(self._read, remember())
        while True:
            try:
                batch = self._checked(next(batches))
            except StopIteration:
                return
            except Exception as error:
                raise DataError(_reason(error, pending)) from error
            pending.popleft()
            yield batch

    def _read(self, item: Any) -> B:
        batch = self._checked(self.dataset[item])
        return batch.pin_memory() if torch.cuda.is_available() else batch  # type: ignore[attr-defined]

    def _checked(self, batch: B) -> B:
        if not isinstance(batch, self.kind):
            raise DataError(
                f"{type(self.dataset).__name__}.__getitem__ must return a {self.kind.__name__}, not a"
                f" {type(batch).__name__}"
            )
        return batch


def _reason(error: Exception, pending: Iterable[Any]) -> str:
    """Describes in one line why reading a batch failed, here or in a worker."""
    text = str(error)
    if isinstance(error, StalledWorkerError):
        return (
            f"{text}; {_being_read(pending)}. A worker may be stopped by a signal or wait for a file system: resume"
            " from the last checkpoint, with a higher limit if samples take that long"
        )
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        # Mostly out of memory, or a decoder that crashed. The pack that caused it is not known.
        return (
            f"a worker process that reads data died ({' '.join(text.split())}); {_being_read(pending)}. If memory ran"
            " out, lower data.loading.num_workers; with 0 the cause is shown"
        )
    lines = text.rstrip().splitlines() if text.startswith("Caught ") else traceback.format_exception_only(error)
    while any(line.startswith(" ") for line in lines):  # the message includes the traceback of a worker
        lines.pop(0)
    text = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", "\n".join(lines), flags=re.ASCII)  # the error without its module
    text = " ".join(text.split())
    if isinstance(error, DataError):
        return text.removeprefix(f"{DataError.__name__}: ")
    return f"reading data failed, {_being_read(pending)}: {text}"


def _being_read(pending: Iterable[Any]) -> str:
    numbers = [item.number if isinstance(item, Pack) else item for item in pending]
    known = [number for number in numbers if number is not None]
    return f"packs {min(known)} to {max(known)} were being read" if known else "nothing was being read"


def one_pass(count: int, rank: int, world: int) -> list[int | None]:
    """Returns the item numbers of one rank for a single pass over `count` items, each on exactly one rank.

    All ranks get lists of the same length, padded with None, which must not be counted.
    """
    each = -(-count // world)
    return [number if number < count else None for number in range(rank, each * world, world)]
