"""Rows and pictures of answers as files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation.answer_files import PictureFolder, Rows, check_finite


@pytest.mark.parametrize("key", ["../../etc/passwd", "/x/y", "..", "", "a\0b\n", "ä" * 300, "c:\\x", "a/b", "a_b"])
def test_no_key_leaves_the_folder(tmp_path: Path, key: str) -> None:
    folder = PictureFolder(tmp_path / "run", "predictions")
    paths = [folder.save(Image.new("L", (3, 2)), key, 7, row) for row in range(2)]
    written = sorted((tmp_path / "run" / "predictions").iterdir())
    assert [tmp_path / "run" / path for path in sorted(paths)] == written
    assert len(set(paths)) == 2
    assert all(path.startswith("predictions/") and len(path) < 150 and path.isascii() for path in paths)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_equal_keys_and_keys_that_become_equal_have_their_own_files(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path, "answers")
    names = {folder.save(Image.new("L", (3, 2)), key, batch, 0) for batch, key in enumerate(["a/b", "a_b", "a_b"])}
    assert names == {"answers/a_b-0-0.png", "answers/a_b-1-0.png", "answers/a_b-2-0.png"}


def test_pictures_of_an_earlier_run_are_removed_and_no_others(tmp_path: Path) -> None:
    folder = PictureFolder(tmp_path, "answers")
    folder.clear()
    folder.save(Image.new("L", (3, 2)), "a", 12, 0)
    for name in ("mine.png", "a-1-2.txt"):
        (tmp_path / "answers" / name).touch()
    folder.clear()
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"mine.png", "a-1-2.txt"}


def test_rows_that_json_cannot_hold() -> None:
    rows = Rows()
    rows.add({"key": "a", "answer": "ä"})
    rows.add({"key": "b", "answer": [[float("nan")]]})
    assert rows.lines == ['{"key": "a", "answer": "ä"}']
    with pytest.raises(NonFiniteError, match=r"^values for b are NaN or infinite, .*: x\.jsonl is not written$"):
        check_finite(rows.refused, "x.jsonl")
    check_finite([], "x.jsonl")
    with pytest.raises(NonFiniteError, match=" and 2 more are NaN"):
        check_finite(list("abcdefghij"), "x.jsonl")
    with pytest.raises(WiringError, match="Tensor is not JSON serializable"):
        rows.add({"key": "c", "answer": torch.ones(1)})
