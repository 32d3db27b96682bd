"""Tests of the checks of a model folder's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmcomponents.model_files import MAX_TEXT, ModelFileError, check_file, check_model_files, read_json_file


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "additional").mkdir(parents=True)
    (tmp_path / "secret").write_text("key")
    (folder / "vocab.txt").symlink_to("../secret")
    (folder / "near.txt").symlink_to("vocab.json")
    (folder / "vocab.json").write_text("{}")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "circle.txt").symlink_to("circle.txt")
    with pytest.raises(ModelFileError, match=r"vocab\.txt is a link to a file outside of the folder"):
        check_file(folder / "vocab.txt")
    check_file(folder / "near.txt")
    with pytest.raises(ModelFileError, match="is a link to a file that does not exist"):
        check_file(folder / "gone.txt")
    with pytest.raises(ModelFileError, match=r"circle\.txt cannot be read"):
        check_file(folder / "circle.txt")
    with pytest.raises(FileNotFoundError):
        check_file(folder / "none.txt")
    (folder / "additional_chat_templates").symlink_to(tmp_path / "others")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.jinja").write_text("")
    (folder / "vocab.txt").unlink()
    with pytest.raises(ModelFileError, match=r"a\.jinja is a link to a file outside of the folder"):
        check_model_files(folder)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    hub = tmp_path / "models--one--name"
    (hub / "snapshots" / "abc").mkdir(parents=True)
    (hub / "blobs").mkdir()
    (hub / "blobs" / "hash").write_text("{}")
    file = hub / "snapshots" / "abc" / "config.json"
    file.symlink_to("../../blobs/hash")
    assert read_json_file(file) == {}
    (tmp_path / "link").symlink_to(file.parent)
    assert read_json_file(tmp_path / "link" / "config.json") == {}
    (tmp_path / "secret").write_text("{}")
    (hub / "blobs" / "hash").unlink()
    (hub / "blobs" / "hash").symlink_to("../../secret")
    with pytest.raises(ModelFileError, match="is a link to a file outside"):
        read_json_file(file)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "merges.txt")
    with pytest.raises(ModelFileError, match=r"merges\.txt is a pipe or a device, not a file"):
        check_model_files(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ModelFileError, match=r"config\.json is a folder, not a file"):
        read_json_file(tmp_path / "config.json")
    with pytest.raises(ModelFileError, match="zero is a pipe or a device"):
        check_file(Path("/dev/zero"))


def test_json_files_have_a_largest_size_and_depth(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for depth, passes in ((100, True), (101, False), (100_000, False)):
        file.write_text("[" * depth + "]" * depth)
        if passes:
            read_json_file(file)
            continue
        with pytest.raises(ModelFileError, match=r"config\.json is nested more than 100 deep$"):
            read_json_file(file)
    with file.open("wb") as opened:
        opened.truncate(MAX_TEXT + 1)
    with pytest.raises(ModelFileError, match="has 67,108,865 bytes, more than 67,108,864"):
        read_json_file(file)
    for text in (b"", b'{"a": "\xff"}', b'{"a": '):
        file.write_bytes(text)
        with pytest.raises(ModelFileError, match=r"config\.json is not JSON"):
            read_json_file(file)
