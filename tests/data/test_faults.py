"""Tests of faulty files and processes: samples are skipped, counted and logged, or the run stops with one line."""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index, index_shards
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.format.shards import list_shard
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.data.storage import local

from .faulty_shards import archive, data_of, good, indexed, read, sample

pytestmark = pytest.mark.usefixtures("impatient_loaders")
WORKERS = pytest.mark.parametrize("workers", [0, 2])


def bomb() -> bytes:
    """The header of an image of ten billion pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(10**6))]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# --- known when a shard is indexed

BAD: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "broken picture": (sample("bad", image=b"\xff\xd8\xff\xe0 no picture"), "not an image"),
    "bomb": (sample("bad", image=bomb()), "image too large: "),
    "missing picture": (sample("bad")[:1], "1 <image> placeholders in the user's turns, 0 images"),
    "missing JSON": (sample("bad")[1:], "the sample has no .json member"),
    "wrong JSON": ([("bad.json", b'{"messages": ['), *sample("bad")[1:]], "wrong JSON"),
    "no UTF-8": ([("bad.json", b'{"text": "\xff\xfe"}')], "wrong JSON"),
    "key twice": (sample("0000"), "the key 0000 occurs twice"),
    "member twice": ([*sample("bad"), sample("bad")[1]], "the member bad.0.png occurs twice"),
    "../": (sample("../../bad"), "leaves the folder"),
    "/": (sample("/etc/bad"), "leaves the folder"),
    "C:": (sample("C:\\bad"), "leaves the folder"),
    "backslash": ([*sample("bad"), ("bad.1.\\..\\..\\png", b"")], "leaves the folder"),
    "a name of digits": ([*sample("bad")[:1], (f"bad.{'9' * 5000}.png", b"")], "not an image: 0 bytes"),
    "endless clip": (
        [("bad.json", json.dumps({"text": "x", "clips": [[0, 10**400]]}).encode()), ("bad.0.mp4", b"no film")],
        "a clip must be",
    ),
    "source": ([("bad.json", json.dumps({"text": "x", "source": "s" * 1000}).encode())], "the source has 1000 char"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_sample_is_left_out_and_named(
    kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    members, reason = BAD[kind]
    shard = indexed(folder, [*good(30), *members, *sample("last")], tokenizer)
    index = Index.open([shard], tokenizer)
    assert list(index.problems) == [30]
    assert re.search(reason, index.problems[30])
    with pytest.raises(DataError, match=r"^[^\n]*1 of 32 samples cannot be used, more than max_refused 0.01[^\n]*$"):
        data_of(folder).setup("fit")
    data = data_of(folder, max_refused=0.1)
    caplog.clear()
    data.setup("fit")
    assert re.search(f"cannot be used: {re.escape(index.name(30))}: .*({reason})", caplog.text)
    assert "1 of 32 samples cannot be used; max_refused is 0.1" in caplog.text
    seen, refused = read(data)
    assert len(seen) == 31
    assert refused == []


def test_a_cut_shard_keeps_what_is_whole(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shard = archive(folder / "train-000000.tar", good(30))
    places = [sample.members[1] for sample in list_shard(shard)]
    os.truncate(shard, places[20].offset + places[20].size // 2)
    build_index(shard, tokenizer)
    index = Index.open([shard], tokenizer)
    assert len(index) == 21
    assert list(index.problems) == [20]
    assert "the shard ends inside 0020.0.png" in index.problems[20]
    with pytest.raises(DataError, match=r"1 of 21 samples cannot be used.*train-000000/0020: the shard ends inside"):
        data_of(folder).setup("fit")


def test_what_is_no_shard_is_refused(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for content in (b"", b"noise" * 500):
        (folder / "noise.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"noise\.tar is not a tar file"):
            build_index(folder / "noise.tar", tokenizer)
    with pytest.raises(DataError, match=r"absent\.tar cannot be read: No such file"):
        build_index(folder / "absent.tar", tokenizer)
    (folder / "folder.tar").mkdir()
    with pytest.raises(DataError, match=r"folder\.tar cannot be read: Is a directory"):
        build_index(folder / "folder.tar", tokenizer)


def test_tar_headers_that_ask_for_memory(tmp_path: Path) -> None:
    """A long name of an exabyte, negative sizes, and a thousand nested headers."""
    from .test_fuzz import header

    first, end = header(b"a.json", 0, b"0"), bytes(1024)
    for wrong in (
        header(b"b", 1 << 62, b"L"),
        header(b"b", 1 << 40, b"x"),
        header(b"b.json", -512, b"0"),  # points to itself
        header(b"b.json", -1024, b"0"),
        header(b"b", 0, b"x") * 3000,
        header(b"b", 30, b"x") + b"30 size=-99999999999999999999\n".ljust(512, b"\0") + header(b"b.json", 0, b"0"),
    ):
        (path := tmp_path / "a.tar").write_bytes(first + wrong + end)
        (only,) = list_shard(path)
        assert only.key == "a"
        assert "truncated or damaged at byte 512" in only.problem
    path.write_bytes(first + header(b"b.json", 1 << 80, b"0") + end)
    assert [("the shard ends inside b.json" in sample.problem) for sample in list_shard(path)] == [False, True]


# --- shards that change after indexing


def test_a_shard_that_changed_since_it_was_indexed_stops_the_run(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    shard = indexed(folder, good(30), tokenizer)
    indexed(folder, good(4), tokenizer, "train-000001.tar")
    for change, reason in (
        (lambda: os.truncate(shard, 20_000), r"was built for a shard of \d+ bytes, .*train-000000.tar has 20000"),
        (lambda: archive(shard, good(60)), r"was built for a shard of \d+ bytes"),
    ):
        change()
        with pytest.raises(
            DataError, match=rf"^[^\n]*30 of 34 samples cannot be used.*all samples of .*: [^\n]*{reason}[^\n]*$"
        ):
            data_of(folder).setup("fit")
    named = [str(shard), str(folder / "train-000001.tar")]
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000000\.tar does not exist"):
        data_of(folder, train=named).setup("fit")
    archive(shard, good(60))
    data = data_of(folder, max_refused=0.9)
    data.setup("fit")
    assert read(data) == ([f"train-000001/000{n}" for n in range(4)], [])


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "gone": (lambda shard: shard.unlink(), "does not exist"),
    "cut": (lambda shard: os.truncate(shard, 600), "bytes at"),
    "empty": (lambda shard: os.truncate(shard, 0), "has 0 of the"),
    "a folder": (lambda shard: (shard.unlink(), shard.mkdir()), "could not be read: Is a directory"),
    "another": (lambda shard: shard.write_bytes(bytes(range(256)) * (shard.stat().st_size // 256)), "wrong JSON"),
}


@WORKERS
@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_goes_while_it_is_read(
    change: str, workers: int, folder: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    shard = indexed(folder, good(4), tokenizer)
    indexed(folder, good(30), tokenizer, "train-000001.tar")
    strict, patient = data_of(folder, num_workers=workers), data_of(folder, num_workers=workers, max_refused=0.2)
    strict.setup("fit")
    patient.setup("fit")
    do, reason = CHANGES[change]
    do(shard)
    seen, refused = read(patient)
    assert seen == [f"train-000001/{n:04d}" for n in range(30)]
    assert [line.partition(":")[0] for line in refused] == [f"train-000000/000{n}" for n in range(4)]
    for line in refused:
        assert reason in line
        assert f"skipped {line}" in caplog.text
    with pytest.raises(DataError, match=r"^[^\n]* of \d+ samples were skipped, more than max_refused 0.01[^\n]*$"):
        read(strict)


@WORKERS
def test_a_shard_that_is_swapped_for_one_of_the_same_shape(
    workers: int, folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """With equal keys and sizes but another text, packs would be longer than planned."""
    shard = indexed(folder, good(10, answer="3 7 1 3 7 1"), tokenizer)
    data = data_of(folder, num_workers=workers, max_refused=1.0)
    data.setup("fit")
    size = shard.stat().st_size
    archive(shard, good(10, answer="How many di"))
    assert shard.stat().st_size == size
    seen, refused = read(data)
    assert seen == []
    assert len(refused) == 10
    told = r"0000: the sample has \d+ tokens, its index has \d+: the shard changed after indexing"
    assert re.search(told, refused[0])


def test_a_shard_that_may_not_be_read(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not restrict a superuser, so the test makes opening fail."""
    indexed(folder, good(5), tokenizer)
    data = data_of(folder, max_refused=1.0)
    data.setup("fit")

    def forbidden(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local, "open_regular", forbidden)
    seen, refused = read(data)
    assert seen == []
    assert len(refused) == 5
    assert "train-000000.tar could not be read: Permission denied" in refused[0]


# --- indices


def test_a_damaged_index_is_refused_with_the_command_that_makes_it_anew(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    shard = indexed(folder, good(5), tokenizer)
    data = index_path(shard).read_bytes()
    turned = bytearray(data)
    turned[-20] ^= 4
    for wrong in (data[: len(data) // 2], data[:100], b"", b"noise" * 99, bytes(turned)):
        index_path(shard).write_bytes(wrong)
        with pytest.raises(DataError, match=r"^[^\n]*000000\.index\.safetensors (cannot be read|is damaged)[^\n]*$"):
            data_of(folder).setup("fit")
    index_path(shard).write_bytes(data)
    data_of(folder).setup("fit")


def test_an_index_of_another_tokenizer_is_refused(folder: Path) -> None:
    indexed(folder, good(5), train_tokenizer(["something else"], 290))
    with pytest.raises(DataError, match=r"built with another tokenizer.*run `mmcomponents data index .*train-000000"):
        data_of(folder).setup("fit")


def test_an_index_that_is_made_anew_during_a_run(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shard = indexed(folder, good(5), tokenizer)
    index = Index.open([shard], tokenizer)
    indexed(folder, good(6), tokenizer)
    with pytest.raises(DataError, match="was rebuilt after the run started"):
        index.name(0)


# --- commands as shards


def test_commands_are_not_run_unless_allowed(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    shard = indexed(folder, good(5), tokenizer)
    mark = folder / "it-ran"
    command = f"pipe:touch {mark} && cat {shard}"
    for refused in (
        lambda: data_of(folder, train=[str(shard), command]).setup("fit"),
        lambda: index_shards([str(shard), command], str(folder / "tokenizer")),
        lambda: build_index(command, tokenizer, folder),
    ):
        with pytest.raises(DataError, match=r"pipe:touch … runs a shell command: set allow_pipe if you trust"):
            refused()
        assert not mark.exists()


def test_commands_that_are_allowed(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = indexed(folder, good(5), tokenizer)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    command = f"pipe:cat {shard}"
    made = index_shards([command], str(folder / "tokenizer"), str(folder / "cache/mmcomponents"), allow_pipe=True)
    assert Path(made.paths[0]).is_file()
    data = data_of(folder, train=command, allow_pipe=True)
    data.setup("fit")
    assert len(read(data)[0]) == 5
    with pytest.raises(DataError, match="exit status 3"):
        data_of(folder, train="pipe:exit 3", allow_pipe=True).setup("fit")


# --- several ranks


def test_all_ranks_come_to_the_same_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the second rank has seen bad samples; both stop at the same step, because of the sum."""

    def batch(refused: int) -> PackedBatch:
        from mmcomponents.data.loading.collation import collate

        found = collate([], 4, 0, [f"train/{n}: broken" for n in range(refused)])
        found.keys, found.segment_source = ["train/x"], torch.tensor([0])
        found.layout.token_type = torch.tensor([int(TokenType.TEXT)])
        return found

    class Rank:
        world_size, lightning_module, root_device = 2, None, torch.device("cpu")

        @property
        def strategy(self) -> Rank:
            return self

    ranks = [StepCounts(SkippedSamples("train", 100_000, 0.01), 2, 100) for _ in range(2)]
    stopped: list[tuple[int, str]] = []
    for step in range(30):
        mine = [
            counts.of(batch(refused), Rank())  # type: ignore[arg-type]
            for counts, refused in zip(ranks, (0, 1), strict=True)
        ]
        names = sorted(mine[0])
        assert names == sorted(mine[1])
        total = torch.tensor([mine[0][name] + mine[1][name] for name in names], dtype=torch.float64)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda values, total=total: values.copy_(total))
        for counts, sums in zip(ranks, mine, strict=True):
            try:
                counts.reduce(sums)
            except DataError as error:
                stopped.append((step, str(error)))
    assert [step for step, _ in stopped[:2]] == [10, 10], "more than ten of the first thousand"
    assert stopped[0][1] == stopped[1][1]
    assert "11 of 33 samples were skipped" in stopped[0][1]


def test_refused_samples_are_told_once_each_epoch(
    folder: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    shard = indexed(folder, good(20), tokenizer)
    data = data_of(folder, max_refused=0.2)
    data.setup("fit")
    first = next(iter(list_shard(shard))).members[1]
    with shard.open("r+b") as file:
        file.seek(first.offset)
        file.write(b"no picture")
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            assert [line.partition(":")[0] for line in read(data)[1]] == ["train-000000/0000"]
            assert caplog.text.count("data: skipped") == 1
