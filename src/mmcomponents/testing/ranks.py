"""Processes that stay alive and run functions as the ranks of a distributed job, on the CPU."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pickle import PicklingError
from types import ModuleType
from typing import Any, Self

import cloudpickle
import torch
import torch.multiprocessing as mp

from mmcomponents.testing.report import described

_PRELOADED = "mmcomponents.testing"

_GRACE = 30.0
"""Seconds that a rank gets to answer after another one has failed."""


@dataclass(frozen=True)
class _Answer:
    """Answer of a rank: an error or a pickled result; whether its process has ended or hangs."""

    error: str | None
    result: bytes = b""
    is_lost: bool = False


class Ranks:
    """Two processes (or another number) that wait for jobs; starting them takes seconds, a job does not.

    Use it as a context manager, or call `close`; the processes also end with the one that has started them. Each has
    one thread and the environment that Lightning reads (`LOCAL_RANK`, `WORLD_SIZE`, …): a `Trainer` in a job joins the
    process group.

    Args:
        world: Number of processes.
    """

    def __init__(self, world: int = 2) -> None:
        self.world = world
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 240.0) -> list[Any]:
        """Calls `function(rank, *arguments)` on each rank.

        Args:
            function: Any function; one that the processes cannot import, such as a lambda, is sent as code.
            arguments: What the function gets after the rank; can be pickled.
            timeout: Seconds until a rank counts as hanging. The default allows for busy machines.

        Returns:
            The result of each rank.

        Raises:
            RuntimeError: A rank raised an error, hangs or has ended.
            TypeError: The function or an argument cannot be pickled.
        """
        with _by_value(function, *arguments):
            try:
                job = cloudpickle.dumps((function, arguments))
            except (TypeError, AttributeError, PicklingError) as error:
                raise TypeError(f"a factory or an argument cannot be sent to another process: {error}") from error
        self._number += 1
        for line in self._lines:
            with suppress(OSError):  # of a rank that has ended, which the answers report
                line.send((self._number, job))
        answers = self._answers(time.monotonic() + timeout)
        if errors := [answer.error for answer in answers if answer.error]:
            raise RuntimeError("; ".join(errors))
        return [cloudpickle.loads(answer.result) for answer in answers]

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.kill()  # they hold nothing: an orderly end takes seconds
        for process in self._processes:
            process.join()

    def _start(self) -> None:
        # Forked from a process that has imported the library and done nothing else: a process that has run a backward
        # pass cannot be forked, and an import by each rank takes seconds.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload([_PRELOADED])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._lines, self._processes, self._number = [], [], 0
        for rank in range(self.world):
            line, end = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, port, end), daemon=True)
            process.start()
            end.close()  # the end of the process is then the end of the line
            self._lines.append(line)
            self._processes.append(process)

    def _answers(self, until: float) -> list[_Answer]:
        """Waits for all ranks; replaces the processes if one has ended or hangs, since they cannot take another job.

        A rank whose partner has failed waits for it in a collective: it gets little more time.
        """
        answers: dict[int, _Answer] = {}
        while len(answers) < self.world:
            for rank in [rank for rank in range(self.world) if rank not in answers]:
                answer = self._answer(rank, until)
                if answer is not None:
                    answers[rank] = answer
                    until = min(until, time.monotonic() + _GRACE) if answer.error else until
        if any(answer.is_lost for answer in answers.values()):
            self.close()
            self._start()
        return [answers[rank] for rank in range(self.world)]

    def _answer(self, rank: int, until: float) -> _Answer | None:
        """Returns the answer of a rank, None if it needs more time; prints the traceback of one that hangs."""
        process = self._processes[rank]
        try:
            while self._lines[rank].poll(0.2):
                number, error, result = self._lines[rank].recv()
                if number == self._number:  # else of a job that the caller has left by an exception
                    return _Answer(error, result)
        except (EOFError, OSError):
            process.join()
            return _Answer(f"rank {rank} ended with exit code {process.exitcode}", is_lost=True)
        if time.monotonic() < until:
            return None
        os.kill(process.pid or 0, signal.SIGUSR1)
        process.join(2)  # time to write
        return _Answer(f"rank {rank} gave no answer in time", is_lost=True)


def _serve(rank: int, world: int, port: int, line: Any) -> None:
    names = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    faulthandler.enable()  # prints the traceback of a crash
    with suppress(EOFError, OSError):  # the other end is closed, or its process has ended
        while True:
            number, job = line.recv()
            # For each job: after a run, Lightning resets signal handlers and removes variables.
            faulthandler.register(signal.SIGUSR1, all_threads=True)
            os.environ.update({name: str(value) for name, value in names.items()})
            try:
                function, arguments = cloudpickle.loads(job)
                line.send((number, None, cloudpickle.dumps(function(rank, *arguments))))
            except (Exception, SystemExit) as error:
                line.send((number, f"rank {rank}: {described(error)}", b""))


def modules_sent_as_code(*values: Any) -> list[ModuleType]:
    """Returns the modules of functions and classes in the values that another process cannot import by name.

    That is so for a test file under pytest's `--import-mode=importlib`, and for a script.
    """
    found = []
    for value in _inner(values):
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        if module is not None and module not in found and not _importable(module):
            found.append(module)
    return found


@contextmanager
def _by_value(*values: Any) -> Iterator[None]:
    """Pickles what the values' own modules define as code where another process could not import it."""
    found = modules_sent_as_code(*values)
    for module in found:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in found:
            cloudpickle.unregister_pickle_by_value(module)


def _inner(value: Any) -> Iterator[Any]:
    """Yields the functions and classes inside containers, partials and dataclass instances."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _inner(item)
    elif callable(value) and hasattr(value, "func"):
        yield from _inner((value.func, value.args, value.keywords))
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        yield from _inner([getattr(value, name) for name in value.__dataclass_fields__])
    elif callable(value):
        yield value


def _importable(module: ModuleType) -> bool:
    """Returns whether the module's name leads to its file on `sys.path`."""
    path: Any = None
    spec = None
    for depth in range(module.__name__.count(".") + 1):
        name = ".".join(module.__name__.split(".")[: depth + 1])
        finders = [finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec")]
        spec = next((found for find in finders if (found := find(name, path)) is not None), None)
        if spec is None:
            return module.__name__ in sys.builtin_module_names
        path = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(module, "__file__", None)
