"""Several processes that pack shards, and a clear word when one of them dies.

Each has a pipe of its own: it gets a chunk, tells how far it is, and hands back the note. A process whose caller is
gone ends itself, so that a call that was killed leaves nobody behind who writes.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmcomponents.data.annotations.chunks import Chunk
from mmcomponents.data.annotations.shard import Job, pack_chunk
from mmcomponents.data.annotations.state import Note
from mmcomponents.data.control_text import TemplateError
from mmcomponents.data.errors import DataError
from mmcomponents.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_TELL_EVERY = 0.5
"""Seconds between two words on how far a process is."""

Tell = Callable[[Chunk, int], None]
"""Is called with a chunk that is being packed and the bytes of it that are done."""


def pack_here(job: Job, chunks: Iterator[Chunk], tell: Tell) -> Generator[Note, None, None]:
    """Packs one chunk after the other in this process."""
    tokenizer = load_tokenizer(job.tokenizer)
    for chunk in chunks:
        yield pack_chunk(job, chunk, tokenizer, lambda done, chunk=chunk: tell(chunk, done))  # type: ignore[misc]


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    chunk: Chunk


def pack_in_processes(job: Job, chunks: Iterator[Chunk], count: int, tell: Tell) -> Generator[Note, None, None]:
    """Packs chunks in several processes; the notes come in the order in which they are done.

    Args:
        job: What is packed.
        chunks: Found as they are needed.
        count: Processes at most.
        tell: Is told how far a chunk is.

    Raises:
        DataError: A process died, or could not read or write.
        RuntimeError: A fault in this library; the message names the line of the input.
    """
    # Forked from a process that has nothing but these modules: quick to start, and free of this process's threads.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([__name__])
    busy: dict[Connection, _Worker] = {}
    try:
        for chunk in chunks:
            if len(busy) == count:
                worker, note = _wait(job, busy, tell)
                yield note
                _give(job, worker, chunk)
            else:
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(job, theirs), daemon=True)
                process.start()
                theirs.close()
                busy[mine] = _Worker(process, mine, chunk)
                _give(job, busy[mine], chunk)
        while busy:
            worker, note = _wait(job, busy, tell)
            del busy[worker.pipe]
            worker.pipe.close()
            worker.process.join()
            yield note
    finally:
        for worker in busy.values():
            worker.process.terminate()
        for worker in busy.values():
            worker.process.join()


def _give(job: Job, worker: _Worker, chunk: Chunk) -> None:
    worker.chunk = chunk
    try:
        worker.pipe.send(chunk)
    except ConnectionError:
        raise _death(job, worker) from None


def _wait(job: Job, busy: dict[Connection, _Worker], tell: Tell) -> tuple[_Worker, Note]:
    """Waits until one of the processes has packed its chunk."""
    while True:
        for pipe in connection.wait(list(busy)):
            worker = busy[pipe]  # type: ignore[index]
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, ConnectionError):
                raise _death(job, worker) from None
            if kind == "note":
                return worker, value
            if kind == "data":
                raise DataError(value)
            if kind == "fault":
                raise RuntimeError(value)
            tell(worker.chunk, value)


def _death(job: Job, worker: _Worker) -> DataError:
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    hint = "; the system may have run out of memory: fewer --num_workers need less" if code == -signal.SIGKILL else ""
    chunk, source = worker.chunk, job.sources[worker.chunk.source]
    what = "documents" if source.documents else f"lines of {source.files[0]}"
    return DataError(
        f"the process that packed {source.shard(chunk.number)} ({what} {chunk.first} to"
        f" {chunk.first + chunk.count - 1}) was ended {how}{hint}. The shards that are whole are kept: the same command"
        " goes on"
    )


def _work(job: Job, pipe: Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the caller ends them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes share the cores already
    threading.Thread(target=_end_with_caller, daemon=True).start()
    last = monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if monotonic() - last > _TELL_EVERY:
            pipe.send(("at", done))
            last = monotonic()

    try:
        tokenizer = load_tokenizer(job.tokenizer)
        while True:
            chunk: Chunk = pipe.recv()
            pipe.send(("note", pack_chunk(job, chunk, tokenizer, tell)))
    except EOFError:
        return
    except (DataError, OSError, TemplateError) as error:
        pipe.send(("data", str(error)))
    except Exception:
        pipe.send(("fault", traceback.format_exc()))


def _end_with_caller() -> None:
    caller = parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)
