"""Requests for pictures, from tables and shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mmcomponents.data.errors import DataError
from mmcomponents.evaluation.readers.picture_requests import open_requests


def shard(folder: Path, *samples: tuple[dict[str, object], list[str]]) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "made-000000.tar"
    with tarfile.open(path, "w") as tar:
        for number, (record, pictures) in enumerate(samples):
            image = io.BytesIO()
            Image.new("RGB", (8 + number, 8), "red").save(image, "png")
            members = [("json", json.dumps(record).encode()), *((name, image.getvalue()) for name in pictures)]
            for name, content in members:
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_captions_are_their_own_answers_and_edits_have_an_image(tmp_path: Path) -> None:
    edit = {"request": "make it blue", "reasoning": "a square"}
    made = {"request": "Generate an image of: a bus", "reasoning": ""}
    path = shard(
        tmp_path,
        ({"caption": "4 7"}, ["png"]),
        (edit, ["png", "picture.png"]),
        (made, ["picture.png"]),
        ({"caption": " "}, ["png"]),
        ({"text": "a document"}, []),
    )
    found = open_requests(path)
    assert found.name == "made-000000"
    assert [item.text for item in found.items] == ["Generate an image of: 4 7", "make it blue", made["request"]]
    assert [item.target.references for item in found.items] == [("4 7",), (), ()]
    caption, edited, plain = found.items
    assert caption.media is None
    assert plain.media is None
    assert edited.media is not None
    assert [image.size for image in edited.media()[0]] == [(9, 8)]
    first, second = found.refused
    assert first.startswith('made-000000/003: wrong JSON: "caption" is not a text')
    assert second.startswith('made-000000/004: a request for a picture has the key "caption"')


def test_a_table_has_requests_as_questions(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"question": "Generate an image of: 4 7", "answer": "4 7"}\n')
    (item,) = open_requests(str(path)).items
    assert (item.text, item.target.references) == ("Generate an image of: 4 7", ("4 7",))


def test_remote_shards_are_refused() -> None:
    with pytest.raises(DataError, match="remote: download it first"):
        open_requests("https://example.org/made-000000.tar")


def test_requests_with_equal_keys_or_options_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shard(tmp_path / name, ({"caption": name}, ["png"]))
    with pytest.raises(DataError, match=r"a/made-0+\.tar and .*b/made-0+\.tar both have a request"):
        open_requests(str(tmp_path / "?" / "made-*.tar"))
    path = tmp_path / "requests.jsonl"
    path.write_text('{"question": "Draw", "answer": "A", "options": ["cat", "dog"]}\n')
    with pytest.raises(DataError, match="has options, and a picture chooses none"):
        open_requests(str(path))


def test_a_table_needs_no_answers_where_none_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text('{"question": "Generate an image of: 4 7"}\n')
    assert len(open_requests(str(path), answers=False).items) == 1
    with pytest.raises(DataError, match="answer"):
        open_requests(str(path))
