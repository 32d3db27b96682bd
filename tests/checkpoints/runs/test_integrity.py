"""A damaged checkpoint is refused before its bytes become weights."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import check_contents, checksums, verify, write_checksums


@pytest.fixture
def single(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"model.weight": torch.randn(200, 200)}, "global_step": 3}, path)
    return path


def flip_bits(path: Path, count: int, seed: int) -> None:
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(count):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def test_an_undamaged_checkpoint_passes(single: Path, shards: Path) -> None:
    verify(single)
    verify(shards)


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bits(single: Path, shards: Path, seed: int) -> None:
    flip_bits(single, 50, seed)
    [shard] = shards.glob("*.distcp")
    flip_bits(shard, 1, seed)
    for path in (single, shards):
        with pytest.raises(CheckpointError) as caught:
            verify(path)
        assert "\n" not in str(caught.value)


def test_one_flipped_bit_in_a_weight_that_torch_reads_without_an_error(single: Path) -> None:
    data = bytearray(single.read_bytes())
    data[len(data) // 2] ^= 1
    single.write_bytes(data)
    torch.load(single, weights_only=True)
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged: the checksum of last/data/0 differs"):
        verify(single)


def test_zeroed_bytes(single: Path, shards: Path) -> None:
    [shard] = shards.glob("*.distcp")
    for path in (single, shard):
        data = bytearray(path.read_bytes())
        data[8192:12288] = bytes(4096)
        path.write_bytes(data)
    for path in (single, shards):
        with pytest.raises(CheckpointError, match="damaged"):
            verify(path)


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_file_that_is_cut_off_or_empty(single: Path, kept: int) -> None:
    single.write_bytes(single.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged"):
        verify(single)


@pytest.mark.parametrize("name", [".metadata", "meta.pt", "__0_0.distcp"])
def test_every_file_of_a_folder_is_covered(shards: Path, name: str) -> None:
    given = (shards / name).read_bytes()
    (shards / name).write_bytes(given[:-9] + bytes([given[-9] ^ 1]) + given[-8:])
    with pytest.raises(CheckpointError):
        verify(shards)
    (shards / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}"):
        verify(shards)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"crc32": 3}', "[" * 100_000])
def test_damaged_checksums_are_one_line(shards: Path, content: str) -> None:
    (shards / "checksums.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checksums\.json is damaged"):
        verify(shards)


def test_a_rank_has_the_checksums_of_what_it_has_written(shards: Path) -> None:
    for name in ("__1_0.distcp", "__1_1.distcp", "__11_0.distcp"):
        (shards / name).touch()
    assert checksums(shards, 0).keys() == {".metadata", "meta.pt", "__0_0.distcp"}
    assert checksums(shards, 1).keys() == {"__1_0.distcp", "__1_1.distcp"}
    assert checksums(shards, 11).keys() == {"__11_0.distcp"}


def test_ranks_divide_the_verification(shards: Path) -> None:
    write_checksums(shards, checksums(shards) | {"__0_0.distcp": "00000000"})  # the second name of three
    verify(shards, 0, 2)
    with pytest.raises(CheckpointError, match="its checksum differs"):
        verify(shards, 1, 2)


def test_contents_of_another_kind_are_refused() -> None:
    whole = {"pytorch-lightning_version": "2.6", "epoch": 0, "global_step": 3, "loops": {}, "state_dict": {}}
    path = Path("last.ckpt")
    check_contents(path, whole)
    for name in ("pytorch-lightning_version", "loops", "global_step"):
        with pytest.raises(CheckpointError, match=rf"last\.ckpt is not a checkpoint of a run: it has no {name}"):
            check_contents(path, {key: value for key, value in whole.items() if key != name})
    with pytest.raises(CheckpointError, match=r"last\.ckpt: loops is of type list"):
        check_contents(path, whole | {"loops": []})
    with pytest.raises(CheckpointError, match="it holds a list"):
        check_contents(path, [])


def test_pipes_are_refused_and_missing_checksums_told(single: Path, shards: Path, caplog) -> None:
    single.unlink()
    os.mkfifo(single)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is not a file"):
        verify(single)
    (shards / "checksums.json").unlink()
    verify(shards)
    assert "has no checksums.json: damaged bytes in it are not found" in caplog.text
    os.mkfifo(shards / "checksums.json")
    with pytest.raises(CheckpointError, match=r"checksums\.json is not a file"):
        verify(shards)
