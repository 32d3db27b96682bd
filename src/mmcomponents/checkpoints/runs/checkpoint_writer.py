"""Writing of a sharded checkpoint, at once or in a thread while the run trains.

All ranks call the same methods in the same order. Each rank writes its shard and its checksums into NAME.part, which
rank zero then renames; a save that fails on one rank is known to all of them, and leaves the previous checkpoint.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.runs.integrity import CHECKSUMS, checksums, crc32, read_checksums, write_checksums
from mmcomponents.checkpoints.runs.replacement import part_of, remove, replace, write_error

CONTENTS = "meta.pt"
"""File of everything that is not a weight or the state of an optimizer; Lightning's name."""

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes sharded checkpoints, one after the other, and removes old ones when newer ones are complete.

    A save in the background copies the state to the memory of the CPU and returns. At most one copy exists: the next
    save waits for the one before it. A second checkpoint of the same step, such as `last.ckpt`, consists of hard links.

    Args:
        timeout: Timeout of a collective.
        device: Device of the model.
        step: Returns the number of optimizer steps that this rank has trained.
    """

    def __init__(self, timeout: timedelta | None, device: torch.device, step: Callable[[], int]) -> None:
        # Collectives of the thread must not mix with those of the training, nor with those of `on_batch`.
        self._group, self._asking = (dist.new_group(backend="gloo", timeout=timeout) for _ in range(2))
        self._rank = dist.get_rank()
        self._step = step
        # A thread begins on the first GPU, where the writer of each rank would take memory.
        begin = partial(torch.cuda.set_device, device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, "checkpoint", begin)
        self._jobs: list[Future[None]] = []
        self._stager: DefaultStager | None = None
        self._saved: tuple[int, Path] | None = None
        self._error, self._is_pending = "", False

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(not job.done() for job in self._jobs)

    @property
    def is_pending(self) -> bool:
        """Whether a checkpoint is being written, or its result has not been asked for."""
        return self._is_pending or self.is_busy

    def save(self, state: dict[str, Any], contents: dict[str, Any], path: Path, *, background: bool) -> None:
        """Writes a checkpoint.

        Args:
            state: Sharded weights and optimizer states.
            contents: Everything else; rank zero writes it.
            path: Folder of the checkpoint, the same on all ranks.
            background: Whether to return as soon as the state is copied.

        Raises:
            CheckpointError: A rank could not write; raised on all ranks. In the background, by a later call.
        """
        packed = io.BytesIO()  # now: the training changes what the contents refer to
        if self._rank == 0:
            torch.save(contents, packed)
        step = self._step()
        if background and self._saved is not None and self._saved[0] == step and self._saved[1] != path:
            self._is_pending = True
            self._submit(partial(self._link, self._saved[1], path, packed.getbuffer()))
            return
        self.wait()
        self._saved = (step, path) if background else None
        if not background:
            self._write(state, packed.getbuffer(), path)
            self._raise()
            return
        self._is_pending = True
        self._submit(partial(self._write_told, step, self._copied(state), packed.getbuffer(), path))

    def remove(self, path: Path) -> None:
        """Removes a checkpoint on rank zero, when those are complete that were saved before the call."""

        def removed() -> None:
            if self._rank == 0 and not self._error:
                try:
                    remove(path)
                except OSError as failure:
                    log.warning("the checkpoint %s cannot be removed: %s", path, failure.strerror)

        if self.is_busy:
            self._submit(removed)
        else:
            removed()

    def on_batch(self) -> None:
        """Raises the error of a save in the background, on all ranks in the same batch.

        While a save is pending, each call is a small collective on the CPU: a rank that learned of an error one batch
        before the others would leave them in a collective of the training.

        Raises:
            CheckpointError: A rank could not write.
        """
        if self._is_pending:
            is_done = torch.tensor(not self.is_busy, dtype=torch.int32)
            dist.all_reduce(is_done, dist.ReduceOp.MIN, group=self._asking)
            if is_done:
                self.wait()

    def wait(self) -> None:
        """Waits until all checkpoints are written.

        Raises:
            CheckpointError: A rank could not write; raised on all ranks.
        """
        jobs, self._jobs, self._is_pending = self._jobs, [], False
        for job in jobs:
            job.result()
        self._raise()

    def close(self) -> None:
        """Waits until all checkpoints are written, at the end of a run, which may end by an error of its own."""
        try:
            self.wait()
        except Exception as error:
            log.error("a checkpoint is not written: %s", error)
        self._thread.shutdown()
        if self._stager is not None:
            self._stager.close()

    def _raise(self) -> None:
        error, self._error = self._error, ""
        if error:
            raise CheckpointError(error)

    def _copied(self, state: dict[str, Any]) -> dict[str, Any]:
        if self._stager is None:
            on_gpu = torch.cuda.is_available()
            self._stager = DefaultStager(
                StagingOptions(
                    use_pinned_memory=on_gpu,
                    use_shared_memory=False,
                    use_async_staging=False,
                    use_non_blocking_copy=on_gpu,
                )
            )
        copied = self._stager.stage(state)
        assert isinstance(copied, dict)
        return copied

    def _submit(self, job: Callable[[], None]) -> None:
        self._jobs.append(self._thread.submit(job))

    def _write_told(self, step: int, state: dict[str, Any], packed: memoryview, path: Path) -> None:
        """Writes a checkpoint in the thread, and logs the result."""
        start = time.monotonic()
        self._write(state, packed, path)
        if self._rank == 0 and self._error:
            log.error("%s; the previous checkpoint is kept", self._error)
        elif self._rank == 0:
            trained, seconds = self._step() - step, time.monotonic() - start
            # Through Lightning, whose lines of this level are shown by default.
            rank_zero_info(f"{path} is complete: {trained} steps were trained in the {seconds:.1f} s of its writing")

    def _write(self, state: dict[str, Any], packed: memoryview, path: Path) -> None:
        """Writes a checkpoint and renames it. Errors of any rank are kept in `_error` of all."""
        part, error, found = part_of(path), "", {}
        try:
            if self._rank == 0:
                remove(part)
                part.mkdir(parents=True)
                (part / CONTENTS).write_bytes(packed)
        except OSError as failure:
            error = write_error(part, failure)
        if not self._agreed(error):
            try:
                save(state, checkpoint_id=part, process_group=self._group)
                found = checksums(part, self._rank)
            except (OSError, RuntimeError, CheckpointException) as failure:
                error = write_error(part, failure)
        self._finish(part, path, error, found)

    def _link(self, source: Path, path: Path, packed: memoryview) -> None:
        """Makes a second checkpoint of the same shards: hard links, or copies where there are none."""
        part, error, found = part_of(path), self._error, {}
        if self._rank == 0 and not error:
            try:
                remove(part)
                shutil.copytree(source, part, ignore=shutil.ignore_patterns(CONTENTS, CHECKSUMS), copy_function=_linked)
                (part / CONTENTS).write_bytes(packed)
                found = read_checksums(source) | {CONTENTS: crc32(part / CONTENTS)}
            except (OSError, CheckpointError) as failure:
                error = write_error(part, failure)
        self._finish(part, path, error, found)

    def _finish(self, part: Path, path: Path, error: str, found: dict[str, str]) -> None:
        """Renames a checkpoint that all ranks have written, or removes what there is of it."""
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, (error, found), group=self._group)
        error = next((text for text, _ in shares if text), "")
        if self._rank == 0:
            try:
                if error:
                    remove(part)
                else:
                    write_checksums(part, {name: value for _, share in shares for name, value in share.items()})
                    replace(part, path)
            except OSError as failure:
                error = error or write_error(part, failure)
        self._agreed(error)

    def _agreed(self, error: str) -> bool:
        """Keeps the first error of any rank; returns whether there is one."""
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, error, group=self._group)
        first = next(filter(None, found), "")
        self._error = self._error or first
        return bool(first)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
