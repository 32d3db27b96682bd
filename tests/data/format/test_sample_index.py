from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from mmcomponents.data.chat.kinds import Chat
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.indexing import build_index, index_shards
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import index_path
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.packing.pack_plan import Budgets, Pack

Write = Callable[..., Path]


@pytest.fixture
def shards(write_shard: Write) -> list[Path]:
    text = record("no image at all", "yes", source="text")
    own = record("<image> and <image>", "two")
    own["messages"].insert(0, {"role": "system", "content": "Mine."})
    first = [(record(), [png(100, 30)]), (text | {"source": "text"}, [])]
    second = [(record("no placeholder"), [png(20, 90)]), (own, [png(64, 64), png(200, 30)])]
    return [write_shard(first, "a"), write_shard(second, "b")]


@pytest.mark.parametrize("system", [None, "Answer in one word."])
@pytest.mark.parametrize("tiling", [Tiling(1, 6, 28), Tiling(2, 12, 16, thumbnail=False)])
def test_lengths_from_the_index_are_those_of_the_rendered_samples(
    shards: list[Path], tokenizer: PreTrainedTokenizerFast, tiling: Tiling, system: str | None
) -> None:
    index = Index.open(shards, tokenizer)
    renderer = SampleRenderer(tokenizer, 5, tiling, system=system)
    every = np.arange(len(index))
    dataset, _ = open_packs(index, renderer, PackSettings(Budgets(10_000, 100)))
    tokens, tiles = dataset.sizes.of(index.take(every), every, np.zeros_like(every), 0)
    for number in every.tolist():
        batch = dataset[Pack(0, 0, (number,))]
        assert batch.refused == []
        assert batch.num_tokens == tokens[number]
        assert (0 if batch.images is None else len(batch.images.pixels)) == tiles[number]
    rows = index.take(every)
    assert rows.turns.tolist() == [1, 1, 1, 1]
    assert rows.own_system.tolist() == [False, False, False, True]


def test_shards_are_joined(shards: list[Path], tokenizer: PreTrainedTokenizerFast) -> None:
    index = Index.open(shards, tokenizer)
    assert [index.name(n) for n in range(4)] == [f"{s}-000000/000{n}" for s in "ab" for n in (0, 1)]
    assert [index.sources[n] for n in index.take(np.arange(4)).source] == ["here", "text", "here", "here"]
    assert index.take(np.arange(4)).image_width.tolist() == [100, 20, 64, 200]
    stored = index.read(3)
    assert stored.record["messages"][0]["content"] == "Mine."
    assert stored.images == [png(64, 64), png(200, 30)]
    turned = Index.open(shards[::-1], tokenizer)
    again = turned.read(1)
    assert type(again.kind) is type(stored.kind) is Chat
    assert replace(again, kind=stored.kind) == stored


def test_an_index_of_another_tokenizer_is_refused(shards: list[Path]) -> None:
    other = train_tokenizer(["something else entirely"], 290)
    with pytest.raises(DataError, match=r"another tokenizer.*mmcomponents data index"):
        Index.open(shards, other)
    for shard in shards:
        build_index(shard, other)
    assert len(Index.open(shards, other)) == 4


def test_missing_and_stale_indices_are_refused(shards: list[Path], tokenizer: PreTrainedTokenizerFast) -> None:
    with shards[1].open("ab") as shard:
        shard.write(bytes(512))
    index = Index.open(shards, tokenizer)
    assert index.problem(1) == ""
    assert re.search(r"built for a shard of \d+ bytes.*mmcomponents data index", index.problem(2))
    with pytest.raises(SampleError, match="built for a shard"):
        index.read(3)
    index_path(shards[0]).write_bytes(b"no index")
    with pytest.raises(DataError, match="cannot be read"):
        Index.open(shards, tokenizer)
    index_path(shards[0]).unlink()
    with pytest.raises(DataError, match=r"has no index a-000000\.index\.safetensors"):
        Index.open(shards, tokenizer)
    shards[0].unlink()
    with pytest.raises(DataError, match="is missing"):
        Index.open(shards, tokenizer)
    shards[1].unlink()
    assert "is missing" in Index.open(shards[1:], tokenizer).problem(0)
    with pytest.raises(DataError, match="no shards"):
        Index.open([], tokenizer)


def test_what_cannot_be_indexed_keeps_its_place_and_reason(
    write_shard: Write, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    bad_roles = {"messages": [{"role": "user", "content": "x"}]}
    samples = [
        (record(), [b"no image"]),
        (record(), []),
        (bad_roles, []),
        (record(), [png()]),
        ({"words": "no messages"}, []),
        ({"messages": ["x"]}, [png()]),
        ({"messages": [{"role": "user", "content": 3}]}, [png()]),
    ]
    shard = write_shard(samples, index=False)
    with caplog.at_level(logging.WARNING):
        index = Index.open([build_index(shard, tokenizer) and shard], tokenizer)
    reasons = ["not an image", "1 <image> placeholders", "does not end", "", "wrong JSON", "message 1", "message 1"]
    assert len(index) == len(samples)
    for number, reason in enumerate(reasons):
        assert (reason in index.problems[number]) if reason else number not in index.problems
        assert (f"train-000000/000{number} cannot be used" in caplog.text) == bool(reason)


def test_the_log_names_a_few_samples_of_each_reason(
    write_shard: Write, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    shards = [write_shard([(record(), [])] * 5 + [({"text": ""}, [])], name, index=False) for name in ("a", "b")]
    with caplog.at_level(logging.WARNING):
        build_index(shards[0], tokenizer)
    assert [line.partition(":")[0] for line in caplog.messages] == [
        *(f"a-000000/000{number} cannot be used" for number in (0, 1, 2, 5)),
        "a-000000.index.safetensors",
    ]
    assert "2 more samples" in caplog.messages[-1]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        report = index_shards([str(shard) for shard in shards], str(tmp_path / "tokenizer"))
    assert sum("0 images" in line for line in caplog.messages) == 3  # of both shards together
    found = [(count.samples, count.first) for count in report.reasons.listed()]
    assert found == [(10, "a-000000/0000"), (2, "a-000000/0005")]
    assert (report.samples, report.reasons.samples) == (12, 12)


def test_a_source_that_is_no_text_is_none(write_shard: Write, tokenizer: PreTrainedTokenizerFast) -> None:
    shard = write_shard([(record("What?", source=source), []) for source in (None, {"a": 1}, "", "books")])
    assert Index.open([shard], tokenizer).sources == ["", "books"]


def test_indices_are_as_open_as_other_files(write_shard: Write, tmp_path: Path) -> None:
    (plain := tmp_path / "plain").touch()
    index = index_path(write_shard([(record("What?"), [])]))
    assert index.stat().st_mode == plain.stat().st_mode


def test_problems_keep_their_samples_when_shards_are_joined(
    write_shard: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    good, bad = (record(), [png()]), (record(), [b"bad"])
    index = Index.open([write_shard([good, bad], "a"), write_shard([bad, good, good], "b")], tokenizer)
    assert sorted(index.problems) == [1, 2]
    for number in (0, 3, 4):
        assert index.read(number).images == [png()]
    with pytest.raises(SampleError, match="not an image"):
        index.read(1)


def test_index_shards_takes_names(shards: list[Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for shard in shards:
        index_path(shard).unlink()
    made = index_shards([str(tmp_path / "*.tar")], str(tmp_path / "tokenizer"))
    assert made.paths == [str(index_path(shard)) for shard in shards]
    assert (made.samples, made.reasons.samples, made.failed, made.notes) == (4, 0, [], [])
    assert len(Index.open(shards, tokenizer)) == 4


def test_nothing_is_written_before_all_is_checked(
    shards: list[Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    before = {path: path.read_bytes() for path in map(index_path, shards)}
    (tmp_path / "other").mkdir()
    (twin := tmp_path / "other" / shards[0].name).write_bytes(b"x")
    bare = str(tmp_path / "bare")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))).save_pretrained(bare)
    given = ([str(shards[0])], str(tmp_path / "tokenizer"))
    for call, complaint in (
        (lambda: index_shards(*given, frame_template="x"), "must have <image> once"),
        (lambda: index_shards([str(tmp_path), str(tmp_path / "no.tar")], given[1]), r"no\.tar does not exist"),
        (lambda: index_shards(given[0], str(tmp_path / "nowhere")), "there is no tokenizer folder"),
        (lambda: index_shards(given[0], bare), "lacks 2 of them"),
        (lambda: index_shards([*given[0], "http://host/c.tar"], given[1]), "is remote: name a folder"),
        (lambda: index_shards([*given[0], str(twin)], given[1], out=str(tmp_path / "o")), "share the index"),
    ):
        with pytest.raises(ValueError, match=complaint):
            call()
    assert {path: path.read_bytes() for path in map(index_path, shards)} == before
    assert not (tmp_path / "o").exists()


def test_a_shard_that_is_no_tar_keeps_no_other_waiting(
    shards: list[Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for shard in shards:
        index_path(shard).unlink()
    (tmp_path / "a-0.tar").write_bytes(gzip.compress(shards[0].read_bytes()))
    (tmp_path / "noise.tar").write_bytes(b"noise" * 500)
    (tmp_path / "c.tgz").touch()
    steps: list[tuple[int, int]] = []
    twice = [str(tmp_path), str(shards[0])]
    made = index_shards(twice, str(tmp_path / "tokenizer"), progress=lambda *step: steps.append(step))
    assert made.paths == [str(index_path(shard)) for shard in shards]
    assert made.samples == 4
    assert [(Path(shard).name, reason.removeprefix(shard)) for shard, reason in made.failed] == [
        ("a-0.tar", " is compressed; gunzip it first"),
        ("noise.tar", " is not a tar file: invalid header"),
    ]
    assert made.notes == [f"skipped 1 compressed archive in {tmp_path} (c.tgz): unpack to .tar first"]
    assert steps == [(number, 4) for number in range(5)]
