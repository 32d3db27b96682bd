"""Files that are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.data.storage.atomic_write import atomic_path, write_text


@pytest.mark.parametrize("shared", [True, False])
def test_the_file_appears_when_the_block_ends(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "note.txt"
    path.write_text("old")
    with atomic_path(path, shared=shared) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shared", [True, False])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "note.txt"
    path.write_text("old")

    def fail() -> None:
        with atomic_path(path, shared=shared) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    with atomic_path(path) as one, atomic_path(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


def test_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "größer")
    assert (tmp_path / "note.txt").read_bytes() == "größer".encode()
