"""A sharded checkpoint runs no code when it is read."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs import ShardReader, check_shards, read_metadata, verify


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@pytest.fixture
def shards(shards: Path) -> Path:
    """Removes the checksums, which would be the first to differ."""
    (shards / "checksums.json").unlink()
    return shards


def test_the_description_equals_what_torch_reads(shards: Path) -> None:
    with (shards / ".metadata").open("rb") as file:
        expected = pickle.load(file)
    metadata = read_metadata(shards)
    assert metadata.state_dict_metadata == expected.state_dict_metadata
    assert metadata.storage_data == expected.storage_data
    assert metadata.state_dict_metadata["state_dict.weight"].size == torch.Size([64, 64])
    assert ShardReader(shards).read_metadata().state_dict_metadata == expected.state_dict_metadata
    check_shards(shards)


@pytest.mark.parametrize("function", [os.system, eval, exec, io.open, getattr, torch.load], ids=lambda f: f.__name__)
def test_a_description_that_runs_code_is_refused(shards: Path, tmp_path: Path, function: Any) -> None:
    trace = tmp_path / "ran"
    (shards / ".metadata").write_bytes(pickle.dumps(Call(function, f"touch {trace}")))
    for read in (read_metadata, check_shards, verify, lambda folder: ShardReader(folder).read_metadata()):
        with pytest.raises(CheckpointError, match=rf"refers to [\w.]+\.{function.__name__}, which could run code"):
            read(shards)
    assert not trace.exists()


def test_a_description_cannot_change_classes(shards: Path) -> None:
    # BUILD sets attributes of what is on the stack: here of a function and a class that a description may name.
    attack = (
        b"ctorch.serialization\n_get_layout\n(N}U\x05cacheU\x04evilstb0cpathlib\nPosixPath\n(N}U\x05trickU\x04evilstb0"
    )
    honest = (shards / ".metadata").read_bytes()
    assert honest[:1] == b"\x80"
    (shards / ".metadata").write_bytes(attack + honest[2:])
    with contextlib.suppress(CheckpointError):
        read_metadata(shards)
    assert not hasattr(Path, "trick")
    assert not hasattr(torch.serialization._get_layout, "cache") or torch.serialization._get_layout.cache != "evil"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.state_dict_metadata["state_dict.weight"].chunks.clear(), "has 4096 values and its pieces have 0"),
        (lambda m: setattr(m.state_dict_metadata["state_dict.weight"], "size", torch.Size([64, 65])), "4160 values"),
        (lambda m: setattr(m.state_dict_metadata["state_dict.weight"], "size", None), "a size is missing"),
        (lambda m: setattr(m.state_dict_metadata["state_dict.weight"], "chunks", [7]), "ChunkStorageMetadata expected"),
        (lambda m: m.storage_data.pop(MetadataIndex("state_dict.weight", torch.Size([0, 0]))), "lacks a piece of"),
        (lambda m: m.storage_data.update({1: 2}), "MetadataIndex expected"),
        (lambda m: setattr(next(iter(m.storage_data.values())), "offset", "abc"), "int expected"),
        (lambda m: setattr(m, "state_dict_metadata", []), "dict expected"),
    ],
)
def test_a_description_that_is_not_whole_is_refused(shards: Path, change: Any, reason: str) -> None:
    with (shards / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    change(metadata)
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=reason):
        check_shards(shards)


def test_code_hidden_inside_an_honest_description_is_refused(shards: Path, tmp_path: Path) -> None:
    metadata = read_metadata(shards)
    metadata.planner_data = [Call(os.system, f"touch {tmp_path / 'ran'}")]
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        check_shards(shards)
    assert not (tmp_path / "ran").exists()


def test_an_entry_that_torch_would_unpickle_is_plain_data(shards: Path, tmp_path: Path) -> None:
    metadata = read_metadata(shards)
    entry = io.BytesIO()
    torch.save(Call(os.system, f"touch {tmp_path / 'ran'}"), entry)
    (shards / "more.distcp").write_bytes(entry.getvalue())
    index = MetadataIndex("optimizer_0.param_groups.0.lr")
    place = metadata.storage_data[index]
    metadata.storage_data[index] = type(place)("more.distcp", 0, len(entry.getvalue()))
    assert isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata)
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"optimizer_0\.param_groups\.0\.lr is not plain data"):
        check_shards(shards)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../secret.distcp", "/etc/hostname", "absent.distcp"])
def test_a_file_outside_the_folder_is_refused(shards: Path, name: str) -> None:
    (shards.parent / "secret.distcp").write_bytes(bytes(100_000))
    metadata = read_metadata(shards)
    index, place = next(iter(metadata.storage_data.items()))
    metadata.storage_data[index] = type(place)(name, place.offset, place.length)
    (shards / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="lacks the file"):
        check_shards(shards)


def test_a_shard_that_is_cut_off_is_refused_without_checksums(shards: Path) -> None:
    verify(shards)
    [shard] = shards.glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is cut off"):
        verify(shards)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", pickle.dumps([1, 2])])
def test_a_broken_description_is_one_line(shards: Path, content: bytes) -> None:
    (shards / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_metadata(shards)
    assert "\n" not in str(caught.value)
