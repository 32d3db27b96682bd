"""Sharded checkpoints that are written while the ranks go on."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import CheckpointWriter, checkpoint_writer, verify
from mmcomponents.checkpoints.runs.saved_weights import saved_contents, saved_state

VALUES = torch.arange(8.0)


@contextmanager
def joined(rank: int, step: list[int]) -> Iterator[tuple[CheckpointWriter, DTensor]]:
    if not dist.is_initialized():
        dist.init_process_group("gloo", rank=rank, world_size=2)
    sharded = distribute_tensor(VALUES.clone(), init_device_mesh("cpu", (2,)), [Shard(0)])
    writer = CheckpointWriter(timedelta(minutes=2), torch.device("cpu"), lambda: step[0])
    yield writer, sharded
    writer.close()


def save_in_background(rank: int, folder: Path) -> tuple[list[bool], list[str]]:
    """Saves twice in a step, and goes on; returns what exists meanwhile, and the lines that are logged."""
    step, gate, lines, real = [10], threading.Event(), [], checkpoint_writer.save
    told = logging.Handler()
    told.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    shown = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    shown.addHandler(told)
    shown.setLevel("INFO")

    def late(*given: Any, **options: Any) -> Any:
        gate.wait(120)
        return real(*given, **options)

    paths = folder / "step=10.ckpt", folder / "last.ckpt"
    with joined(rank, step) as (writer, sharded), mock.patch.object(checkpoint_writer, "save", late):
        for number, path in enumerate(paths):
            writer.save({"state_dict": {"model.w": sharded}}, {"number": number}, path, background=True)
        writer.remove(folder / "step=5.ckpt")
        seen = [writer.is_busy, *(path.exists() for path in paths), (folder / "step=5.ckpt").exists()]
        sharded.to_local().zero_()
        step[0] = 13
        gate.set()
        writer.wait()
        seen.append(writer.is_busy)
    shown.removeHandler(told)
    return seen, lines


def test_a_save_does_not_wait_for_the_disk(two_ranks, tmp_path: Path) -> None:
    (tmp_path / "step=5.ckpt").mkdir()
    found = two_ranks.run(save_in_background, tmp_path)
    assert [seen for seen, _ in found] == [[True, False, False, True, False]] * 2
    ((line,), other) = (lines for _, lines in found)
    assert "step=10.ckpt is complete: 3 steps were trained" in line
    assert other == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.ckpt", "step=10.ckpt"]
    for number, name in enumerate(("step=10.ckpt", "last.ckpt")):
        verify(tmp_path / name)
        assert saved_contents(tmp_path / name) == {"number": number}
        assert torch.equal(saved_state(tmp_path / name)["model.w"].load(), VALUES), "as it was when it was saved"
    shards = [tmp_path / name / "__1_0.distcp" for name in ("step=10.ckpt", "last.ckpt")]
    assert shards[0].samefile(shards[1])


def fail(rank: int, path: Path, background: bool) -> tuple[int, str]:
    """Saves while one rank cannot write; returns the batch at which the error is raised, and its text."""
    step, batch = [1], 0
    with joined(rank, step) as (writer, sharded):
        writer.save({"state_dict": {"model.w": sharded}}, {}, path, background=False)
        full = OSError(errno.ENOSPC, "No space left on device")
        real = checkpoint_writer.CheckpointWriter._agreed

        def late(own: Any, error: str) -> bool:
            found = real(own, error)
            time.sleep(0.2 * rank)  # this rank learns of an error later
            return found

        with (
            mock.patch.object(checkpoint_writer, "checksums", side_effect=full if rank else lambda *_: {}),
            mock.patch.object(checkpoint_writer.CheckpointWriter, "_agreed", late),
        ):
            try:
                writer.save({"state_dict": {"model.w": sharded}}, {"newer": True}, path, background=background)
                while batch < 10_000:
                    dist.barrier()
                    batch += 1
                    writer.on_batch()
            except CheckpointError as error:
                return batch, str(error)
    return -1, ""


@pytest.mark.parametrize("background", [True, False])
def test_an_error_of_one_rank_is_raised_on_all_at_the_same_batch(two_ranks, tmp_path: Path, background: bool) -> None:
    path = tmp_path / "last.ckpt"
    (batch, text), other = two_ranks.run(fail, path, background)
    assert (batch, text) == other
    assert batch > 0 if background else batch == 0
    assert text == f"the checkpoint last.ckpt cannot be written to {tmp_path}: No space left on device"
    verify(path)
    assert saved_contents(path) == {}, "the previous checkpoint is kept"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
