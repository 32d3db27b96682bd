"""Loaders of packs: which packs a rank reads, in which order, by how many workers."""

from __future__ import annotations

import os
import re
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from mmcomponents.data.ahead import read_ahead
from mmcomponents.data.errors import DataError
from mmcomponents.data.plan import Pack, PackPlan

B = TypeVar("B")


class PackLoader(Generic[B]):
    """Reads items of a dataset in a given order, with workers or without: the batches are the same.

    It is no torch `DataLoader`, so that Lightning leaves the order alone: packs are divided among ranks here. Without
    workers a thread reads ahead.

    Args:
        dataset: Its items are whole batches.
        items: Returns what to read, asked anew at the start of each epoch.
        length: Batches of a full epoch.
        num_workers: Processes that read; 0: a thread.
    """

    def __init__(
        self, dataset: Dataset[B], items: Callable[[], Iterable[Any]], length: int, num_workers: int = 0
    ) -> None:
        self.dataset, self.items, self.length, self.num_workers = dataset, items, length, num_workers

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[B]:
        """Yields the batches of what is left of an epoch.

        Raises:
            DataError: Reading failed, or a process that reads has died.
        """
        asked: deque[Any] = deque()
        order = iter(self.items())

        def remember() -> Iterator[Any]:
            for item in order:
                asked.append(item)
                yield item

        batches = self._with_workers(remember) if self.num_workers else read_ahead(self._read, remember())
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(_reason(error, asked)) from error
            asked.popleft()
            yield batch

    def _read(self, item: Any) -> B:
        batch = self.dataset[item]
        return batch.pin_memory() if torch.cuda.is_available() else batch  # type: ignore[attr-defined]

    def _with_workers(self, items: Callable[[], Iterator[Any]]) -> Iterator[B]:
        # A loader an epoch: its workers are stopped with it, and an epoch may begin anywhere.
        loader: DataLoader[B] = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=_Items(items),
            num_workers=self.num_workers,
            collate_fn=as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=quiet_worker,
        )
        yield from loader


class _Items:
    """An order that can be iterated over, as torch wants a sampler to be."""

    def __init__(self, items: Callable[[], Iterator[Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return self.items()


def _reason(error: Exception, asked: Iterable[Any]) -> str:
    """One line for what went wrong while a batch was read, here or in a worker."""
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        # Out of memory, mostly, or a decoder that crashed. Which of the packs did it, nobody can tell.
        return (
            f"a process that reads data has died ({' '.join(text.split())}); {_told(asked)}. If memory ran out, set"
            " fewer data.num_workers; with 0 the reason is seen"
        )
    lines = text.rstrip().splitlines() if text.startswith("Caught ") else traceback.format_exception_only(error)
    while any(line.startswith(" ") for line in lines):  # torch puts the traceback of a worker into the message
        lines.pop(0)
    text = re.sub(r"^[\w.]*\.(?=\w+(:|$))", "", "\n".join(lines), flags=re.ASCII)  # the error without its module
    text = " ".join(text.split())
    if isinstance(error, DataError):
        return text.removeprefix(f"{DataError.__name__}: ")
    return f"reading data failed, {_told(asked)}: {text}"


def _told(asked: Iterable[Any]) -> str:
    numbers = [item.number if isinstance(item, Pack) else item for item in asked]
    known = [number for number in numbers if number is not None]
    return f"packs {min(known)} to {max(known)} were being read" if known else "nothing was being read"


def as_it_is(batch: B) -> B:
    """What to collate with where a batch is one already."""
    return batch


def quiet_worker(_: int) -> None:
    """What a process begins with."""
    # Tokenizers warn when they find themselves in a forked process; one worker needs no threads of theirs.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class RankPacks:
    """The packs of one rank in the endless run: `first`, `first + world`, and so on.

    Args:
        plan: The plan of the run.
        first: Number of the first pack of this rank.
        world: Number of ranks.
        count: How many packs.
    """

    def __init__(self, plan: PackPlan, first: int, world: int, count: int) -> None:
        self.plan, self.numbers = plan, range(first, first + count * world, world)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Pack]:
        return map(self.plan.pack, self.numbers)


def one_pass(count: int, rank: int, world: int) -> list[int | None]:
    """Item numbers of one rank for a single pass over `count` items, each on one rank only.

    All ranks get equally many: None stands where a rank has nothing left, and must not be counted.
    """
    each = -(-count // world)
    return [number if number < count else None for number in range(rank, each * world, world)]
