"""An index that somebody wrote by hand, whose digests are right and whose contents are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data.conftest import png, record
from data.own_kinds import Height
from mmcomponents.data.chat.kinds import Document, Kinds
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import index_path, load_index, read_header, save_index
from mmcomponents.data.format.shards import ShardWriter

Write = Callable[..., Path]


@pytest.fixture
def path(write_shard: Write) -> Path:
    return index_path(write_shard([(record(), [png()]), (record("What?"), [])]))


COLUMNS: dict[str, Any] = {
    "source": [0, 10**9],
    "text_tokens": [5, 10**18],
    "turns": [1, -1],
    "segments": [1, 0],
    "image_begin": [0, 2, 1],
    "image_width": [0],
    "image_height": [10**9],
    "video_begin": [0, 0, 1],
    "member_suffix": [0, 1, 10**9],
    "member_offset": [0, 512, -1],
    "member_size": [10, 20, 10**15],
    "key_begin": [0, 4, 10**12],
    "key_text": [1.5] * 8,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_an_impossible_value_is_named(name: str, path: Path) -> None:
    index, values = load_index(path), np.array(COLUMNS[name])
    if hasattr(index, name):
        index = replace(index, **{name: values})
    else:
        index = replace(index, columns=replace(index.columns, **{name: values}))
    save_index(index, path)
    with pytest.raises(DataError, match=rf"the index .* cannot be read \(its column {name} [^\n]*\)$"):
        load_index(path)


OWN_COLUMNS: dict[str, Any] = {
    "segments": [1, 0],
    "uses": [1, -1],
    "own_tiles": [10**12, 0],
    "kind": [0, 2],
}


@pytest.mark.parametrize("name", OWN_COLUMNS)
def test_an_impossible_value_of_another_packages_kind_is_named(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with ShardWriter(tmp_path, "own") as writer:
        writer.write("a", {"text": "words"})
        writer.write("b", {"height": 1.0, "of": "a tree"})
    path = build_index(writer.paths[0], tokenizer, kinds=Kinds([Document(), Height()]))
    index = load_index(path)
    assert index.header.kinds == ["data.own_kinds.Height"]
    assert index.columns.kind.tolist() == [0, 1]
    save_index(replace(index, columns=replace(index.columns, **{name: np.array(OWN_COLUMNS[name])})), path)
    with pytest.raises(DataError, match=rf"the index .* cannot be read \(its column {name} has [^\n]*\)$"):
        load_index(path)
    save_index(replace(index, columns=replace(index.columns, segments=np.array([1, 9]))), path)
    assert load_index(path).columns.segments.tolist() == [1, 9], "a kind may make any number of segments"


def test_a_rate_that_is_no_number_and_a_column_of_another_length(path: Path) -> None:
    index = load_index(path)
    one = {"video_begin": np.array([0, 0, 1]), "video_frames": np.array([10])}
    for fps in (float("nan"), float("inf"), -1.0):
        save_index(replace(index, columns=replace(index.columns, **one, video_fps=np.array([fps]))), path)
        with pytest.raises(DataError, match="its column video_fps has"):
            load_index(path)
    for turns in (np.zeros(5, np.int64), np.zeros((2, 1), np.int64), np.array(["a", "b"]).view(np.uint8)):
        save_index(replace(index, columns=replace(index.columns, turns=turns)), path)
        with pytest.raises(DataError, match="its column turns is"):
            load_index(path)


@pytest.mark.parametrize(
    "header",
    [
        {"samples": 10**18},
        {"samples": -1},
        {"samples": 2.0},
        {"shard_bytes": -5},
        {"sources": [["a"], "b"]},
        {"sources": 3},
        {"suffixes": [None]},
        {"problems": {10**9: "broken"}},
        {"problems": {0: {"a": 1}}},
        {"fingerprint": []},
        {"kinds": [3]},
    ],
)
def test_an_impossible_header_is_refused_before_columns_are_read(
    header: dict[str, Any], path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    index = load_index(path)
    save_index(replace(index, header=replace(index.header, **header)), path)
    with pytest.raises(DataError, match=r"the index [^\n]* cannot be read"):
        Index.open([path.with_name("train-000000.tar")], tokenizer)


def test_an_index_is_replaced_and_not_written_in_place(path: Path) -> None:
    """A reader that has the former file open, or a killed writer, never sees half of an index."""
    index, before = load_index(path), path.read_bytes()
    os.link(path, former := path.with_name("former"))
    save_index(replace(index, header=replace(index.header, shard_bytes=index.header.shard_bytes + 512)), path)
    assert path.read_bytes() != before
    assert former.read_bytes() == before


def test_folders_of_an_index_are_made(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "indices" / "of" / path.name
    save_index(load_index(path), other)
    assert other.read_bytes() == path.read_bytes()


def test_an_index_that_is_a_pipe_is_not_waited_for(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    for read in (read_header, load_index):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
