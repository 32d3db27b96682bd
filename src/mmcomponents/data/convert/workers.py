"""Worker processes for the conversion.

Each process has a pipe, through which it receives a chunk, reports its progress and returns the note. A process whose
parent has ended exits, so that no process continues to write after a call was killed.
"""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import TYPE_CHECKING, Any

from mmcomponents.data.chat.special_tokens import TemplateError
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.convert.inputs.chunks import Chunk
from mmcomponents.data.convert.resume_state import Note
from mmcomponents.data.convert.shard_job import Job, convert_chunk
from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_REPORT_EVERY = 0.5
"""Seconds between two progress reports of a process."""

Report = Callable[[Chunk, int], None]
"""Called with a chunk in progress and the bytes of it that are done."""


def convert_here(job: Job, chunks: Iterator[Chunk], report: Report) -> Generator[Note, None, None]:
    """Converts chunks one after the other in this process."""
    tokenizer = load_tokenizer(job.tokenizer, job.allowed_tokens)
    for chunk in chunks:
        yield convert_chunk(job, chunk, tokenizer, partial(report, chunk))


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    chunk: Chunk


def convert_in_processes(job: Job, chunks: Iterator[Chunk], count: int, report: Report) -> Generator[Note, None, None]:
    """Converts chunks in several processes, and yields the notes in the order of completion.

    Args:
        job: Settings of the conversion.
        chunks: The chunks; the iterator is advanced as they are needed.
        count: Largest number of processes.
        report: Called with the progress of a chunk.

    Raises:
        DataError: A process died, or could not read or write.
        RuntimeError: A fault in this library; the message has the traceback.
    """
    # Forked from a server that has only imported these modules: fast to start, without this process's threads.
    context: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload([__name__])
    busy: dict[Connection, _Worker] = {}
    try:
        for chunk in chunks:
            if len(busy) == count:
                worker, note = _wait(job, busy, report)
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
            worker, note = _wait(job, busy, report)
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


def _wait(job: Job, busy: dict[Connection, _Worker], report: Report) -> tuple[_Worker, Note]:
    """Waits until one of the processes has converted its chunk."""
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
            report(worker.chunk, value)


def _death(job: Job, worker: _Worker) -> DataError:
    worker.process.join()
    code = worker.process.exitcode or 0
    end = f"was ended by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = "; the system may have run out of memory: fewer --num_workers need less" if code == -signal.SIGKILL else ""
    chunk, source = worker.chunk, job.sources[worker.chunk.source]
    what = "documents" if source.kind == "texts" else f"lines of {source.files[0]}"
    return DataError(
        f"the process that converted {source.shard(chunk.number)} ({what} {chunk.first} to"
        f" {chunk.first + chunk.count - 1}) {end}{hint}. Complete shards are kept: the same command continues"
    )


def _work(job: Job, pipe: Connection) -> None:
    """Main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent terminates them
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already use all cores
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last = monotonic()

    def report(done: int) -> None:
        nonlocal last
        if monotonic() - last > _REPORT_EVERY:
            pipe.send(("at", done))
            last = monotonic()

    try:
        tokenizer = load_tokenizer(job.tokenizer, job.allowed_tokens)
        while True:
            chunk: Chunk = pipe.recv()
            pipe.send(("note", convert_chunk(job, chunk, tokenizer, report)))
    except EOFError:
        return
    except (DataError, OSError, TemplateError) as error:
        pipe.send(("data", str(error)))
    except Exception:
        pipe.send(("fault", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
