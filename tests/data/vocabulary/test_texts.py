"""Texts of shards and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.format import ShardWriter
from mmcomponents.data.vocabulary import texts_of

CHAT = {
    "id": "no text",
    "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}],
}


def test_texts_of_all_kinds_of_files(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shards", "x") as writer:
        writer.write("0", CHAT, [])
        writer.write("1", {"text": "one", "texts": ["two", None], "source": "no text"}, [])
    (tmp_path / "a.txt").write_text("first\nsecond\n")
    (tmp_path / "b.jsonl").write_text(json.dumps(CHAT) + "\n\n" + json.dumps({"chosen": "c", "rejected": "r"}) + "\n")
    (tmp_path / "c.json").write_text(json.dumps([CHAT]))
    paths = [str(tmp_path / name) for name in ("shards", "a.txt", "b.jsonl", "c.json")]
    found = list(texts_of(paths))
    assert found == ["what?", "a cat", "one", "two", "first", "second", "what?", "a cat", "c", "r", "what?", "a cat"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt cannot be read: No such file"):
        list(texts_of([str(tmp_path / "a.txt")]))
    (tmp_path / "b.jsonl").write_text('{"value": "x"}\n[1]\n')
    with pytest.raises(DataError, match=r"b\.jsonl, line 2: "):
        list(texts_of([str(tmp_path / "b.jsonl")]))
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(DataError, match=r"d\.json is not a JSON list"):
        list(texts_of([str(tmp_path / "d.json")]))
    with pytest.raises(DataError, match=r"c\.tar"):
        list(texts_of([str(tmp_path / "c.tar")]))
