from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.demos.handwriting.data_folder import begin, finish


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_own_data_set_is_cleared_and_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    begin(folder, "mine", ["train"])
    touch(folder, "train-000000.tar", "train-000000.index.safetensors")
    finish(folder, {"name": "mine", "seed": 3})
    assert json.loads((folder / "dataset.json").read_text()) == {"name": "mine", "seed": 3}
    assert names(folder) == {"train-000000.tar", "train-000000.index.safetensors", "dataset.json"}
    touch(folder, "photos-000000.tar", "train-photos.tar", "notes.txt")
    begin(folder, "mine", ["train"])
    assert names(folder) == {"photos-000000.tar", "train-photos.tar", "notes.txt", ".dataset.json.begun"}


def test_files_and_folders_with_other_files_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "README.md")
    with pytest.raises(DataError, match=r"README\.md is a file: give a folder"):
        begin(tmp_path / "README.md", "mine", ["train"])
    with pytest.raises(DataError, match=r"is not empty, and has no data set \(it has README\.md\)"):
        begin(tmp_path, "mine", ["train"])
    assert names(tmp_path) == {"README.md"}


def test_what_a_killed_call_left_is_cleared(tmp_path: Path) -> None:
    begin(tmp_path, "mine", ["train", "test"])
    touch(tmp_path, "train-000000.tar", ".test-000000.tar.77.tmp", ".test-000000.index.safetensors.77.tmp")
    begin(tmp_path, "mine", ["train", "test"])
    assert names(tmp_path) == {".dataset.json.begun"}


@pytest.mark.parametrize("finished", [True, False])
def test_another_data_set_is_left_alone(tmp_path: Path, finished: bool) -> None:
    begin(tmp_path, "theirs", ["train"])
    touch(tmp_path, "train-000000.tar")
    if finished:
        finish(tmp_path, {"name": "theirs"})
    before = names(tmp_path)
    with pytest.raises(DataError, match="has the data set 'theirs', not 'mine'"):
        begin(tmp_path, "mine", ["train"])
    assert names(tmp_path) == before


def test_shards_without_a_note_are_left_alone_whatever_they_are_called(tmp_path: Path) -> None:
    touch(tmp_path, "train-000000.tar")
    with pytest.raises(
        DataError, match=r"has 1 shards, such as .*train-000000\.tar, without a note that they are of .* 'mine'"
    ):
        begin(tmp_path, "mine", ["train"])
    assert names(tmp_path) == {"train-000000.tar"}


def test_a_note_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, "mine", ["train"])

    def full(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(b"{")
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as during:
        during.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="no space"):
            finish(tmp_path, {"name": "mine"})
        with pytest.raises(OSError, match="no space"):
            begin(tmp_path, "mine", ["train"])
    begin(tmp_path, "mine", ["train"])
    finish(tmp_path, {"name": "mine"})
    assert json.loads((tmp_path / "dataset.json").read_text()) == {"name": "mine"}


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_note_of_others_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="does not have the name of a data set"):
        begin(tmp_path, "mine", ["train"])
    assert (tmp_path / "dataset.json").read_text() == text
