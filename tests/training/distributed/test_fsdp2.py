"""Sharded checkpoints on two ranks: written whole or not at all, verified before they are loaded."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from contracts.pair import micro_batches, train
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import checkpoint_writer, verify
from mmcomponents.training import FSDP2Strategy
from mmcomponents.training.distributed import fsdp2


def packs(rank: int) -> list[Any]:
    return [ranked[rank] for ranked in micro_batches(1, 2, 1)[0]]


def save_as_rank(rank: int, path: str) -> str:
    """Trains one step and saves; returns the error."""
    try:
        train(packs(rank), 1, save_to=path, strategy=FSDP2Strategy(), devices=2)
    except CheckpointError as error:
        return str(error)
    return ""


def save_with_full_disk(rank: int, path: str) -> str:
    """Trains and saves while rank 1 cannot write its shard."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(checkpoint_writer, "checksums", side_effect=full if rank else lambda *_: {}):
        return save_as_rank(rank, path)


def load_as_rank(rank: int, path: str) -> str:
    try:
        train(packs(rank), 1, strategy="fsdp2", devices=2, ckpt_path=path, max_epochs=2)
    except CheckpointError as error:
        return str(error)
    return ""


def test_a_save_replaces_the_checkpoint_or_leaves_it(two_ranks, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    (tmp_path / "last.ckpt.part").mkdir()
    (tmp_path / "last.ckpt.part" / "__7_0.distcp").touch()
    assert two_ranks.run(save_as_rank, str(path)) == ["", ""]
    verify(path)
    first = {file.name: file.read_bytes() for file in path.iterdir()}
    assert first.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp", "checksums.json", "meta.pt"}

    told = two_ranks.run(save_with_full_disk, str(path))
    wanted = f"the checkpoint last.ckpt cannot be written to {tmp_path}: No space left on device"
    assert told == [wanted] * 2, "both ranks know"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_damage_that_one_rank_finds_stops_both(two_ranks, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    two_ranks.run(save_as_rank, str(path))
    names = sorted(file.name for file in path.iterdir() if file.name != "checksums.json")
    for name in (names[0], names[1]):  # the first is verified by rank 0, the second by rank 1
        given = (path / name).read_bytes()
        middle = len(given) // 2
        (path / name).write_bytes(given[:middle] + bytes([given[middle] ^ 1]) + given[middle + 1 :])
        told = two_ranks.run(load_as_rank, str(path))
        assert told[0] == told[1]
        assert name in told[0]
        (path / name).write_bytes(given)
    assert two_ranks.run(load_as_rank, str(path)) == ["", ""]


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_folder_that_would_run_code_is_not_resumed_from(two_ranks, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    two_ranks.run(save_as_rank, str(path))
    (path / "checksums.json").unlink()
    (path / ".metadata").write_bytes(pickle.dumps(RunsCode()))
    told = two_ranks.run(load_as_rank, str(path))
    assert told[0] == told[1]
    assert "posix.system, which could run code" in told[0]


class EightDevices(FSDP2Strategy):
    """A strategy of a job that has not started."""

    world_size = 8
    root_device = torch.device("cpu")
    device_mesh = {"data_parallel": "one dimension"}
    is_global_zero = True

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def _gathered(self, value: Any) -> list[Any]:
        return [value]


def test_replicas_are_a_dimension_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsdp2, "init_device_mesh", lambda device, shape, mesh_dim_names: (shape, mesh_dim_names))
    assert EightDevices()._shard_mesh() == "one dimension"
    assert EightDevices(replicate=2)._shard_mesh() == ((2, 4), ("replicate", "shard"))


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("the writer failed")])
def test_an_error_of_any_writer_is_one_of_the_checkpoint(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Any, checkpoint: Any, path: Path, options: Any) -> None:
        path.mkdir()
        raise error

    monkeypatch.setattr(ModelParallelStrategy, "save_checkpoint", save)
    with pytest.raises(CheckpointError, match="cannot be written"):
        EightDevices(save_distributed_checkpoint=False).save_checkpoint({}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [None, True, False])
def test_plain_data_alone_is_loaded_unless_a_caller_asks_for_more(
    asked: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    monkeypatch.setattr(fsdp2, "verify", lambda *of: None)
    monkeypatch.setattr(FSDP2Strategy, "_raise_together", lambda self, error: None)
    monkeypatch.setattr(ModelParallelStrategy, "load_checkpoint", lambda self, path, weights_only: weights_only)
    strategy = EightDevices()
    strategy._lightning_module = torch.nn.Module()
    strategy._lightning_module.strict_loading = True
    assert strategy.load_checkpoint(path, asked) is (asked is not False)
