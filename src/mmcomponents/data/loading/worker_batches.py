"""Batches read by worker processes, with a limit on the time in which none arrives."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from mmcomponents.data.errors import DataError

B = TypeVar("B")

_TICK = 5.0
"""Seconds between two looks. The limit is a number of looks, not a time on the clock: a run that is suspended (Ctrl-Z)
loses at most one."""


class StalledWorkerError(DataError):
    """The worker processes have returned nothing for too long."""


def worker_batches(
    dataset: Dataset[B], items: Callable[[], Iterator[Any]], num_workers: int, timeout: float
) -> Iterator[B]:
    """Yields the batches of items in order, read by worker processes that end with the iteration.

    Args:
        dataset: Dataset whose items are complete batches.
        items: Returns the items to read.
        num_workers: Number of worker processes.
        timeout: Seconds in which a batch must arrive; 0: no limit.

    Raises:
        StalledWorkerError: No batch arrived in time.
        RuntimeError: A worker died.
    """
    loader: DataLoader[B] = DataLoader(
        dataset,
        batch_size=None,
        sampler=_Items(items),
        num_workers=num_workers,
        collate_fn=as_it_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=quiet_worker,
    )
    batches: Any = iter(loader)
    # torch would report a dead worker from a signal handler, anywhere in the program, where other code may catch it.
    # Without, it reports it where a batch is waited for.
    if hasattr(signal_handling, "_remove_worker_pids"):
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    watch = _Watch(batches._workers, timeout)
    try:
        while True:
            watch.waiting = True
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                if watch.stalled:
                    raise StalledWorkerError(watch.stalled) from error
                if str(error).startswith("DataLoader worker"):
                    raise RuntimeError(f"{error}: {_ends(batches._workers)}") from error
                raise
            watch.waiting = False
            watch.received += 1
            yield batch
    finally:
        watch.end()
        batches._shutdown_workers()
        for worker in batches._workers:
            worker.kill()  # torch sends SIGTERM, which does not end a stopped process: Python would wait for it at exit


class _Watch:
    """Thread that kills the workers if the process waits too long for a batch, which ends the wait with an error.

    torch's own `timeout` does not cover all waits: a batch in shared memory is fetched from its worker without a limit.

    Attributes:
        waiting: Whether the process waits for a batch.
        received: Number of batches.
        stalled: Description of the worker that is waited for, once the workers are killed.
    """

    def __init__(self, workers: list[Any], timeout: float) -> None:
        self.waiting, self.received, self.stalled = False, 0, ""
        self._workers, self._timeout, self._ended = workers, timeout, threading.Event()
        if timeout:
            threading.Thread(target=self._run, name="watching workers", daemon=True).start()

    def end(self) -> None:
        """Ends the thread."""
        self._ended.set()

    def _run(self) -> None:
        tick, idle, received = min(_TICK, self._timeout / 4), 0, 0
        while not self._ended.wait(tick):
            idle = idle + 1 if self.waiting and self.received == received else 0
            received = self.received
            if idle * tick >= self._timeout:
                self.stalled = self._describe()
                for worker in self._workers:
                    worker.kill()
                return

    def _describe(self) -> str:
        stopped = [number for number, worker in enumerate(self._workers) if _is_stopped(worker.pid)]
        number = stopped[0] if stopped else self.received % len(self._workers)  # torch gives them items in turn
        name = f"worker {number + 1} of {len(self._workers)} that reads data (process {self._workers[number].pid})"
        state = "is stopped" if stopped else "does not answer"
        return f"{name} {state}: no batch came for {self._timeout:g} s (data.loading.worker_timeout; 0: no limit)"


def _ends(workers: list[Any]) -> str:
    """Describes how workers ended that were not asked to."""
    codes = {worker.exitcode for worker in workers if worker.exitcode}
    names = sorted(f"exit code {code}" if code > 0 else signal.Signals(-code).name for code in codes)
    return ", ".join("SIGBUS, the shared memory is full" if name == "SIGBUS" else name for name in names)


def _is_stopped(process: int) -> bool:
    if not hasattr(os, "waitid"):  # macOS
        return False
    try:
        return os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False


class _Items:
    """Sampler that yields given items."""

    def __init__(self, items: Callable[[], Iterator[Any]]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return self.items()


def as_it_is(batch: B) -> B:
    """Returns the batch unchanged: `collate_fn` for items that are batches already."""
    return batch


def quiet_worker(_: int) -> None:
    """Disables the threads of tokenizers in a worker, where they only cause a warning about forking."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
