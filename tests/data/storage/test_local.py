from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage import MissingError, StorageError, exists, is_remote, read_ranges

from .conftest import file_size, read_range


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a b%20{0..1}.tar"
    file.write_bytes(bytes(range(256)))
    return file


def test_plain_paths_and_file_addresses(file: Path) -> None:
    for url in (str(file), file.as_uri(), file.as_uri().replace("file://", "FILE://localhost")):
        assert not is_remote(url)
        assert exists(url)
        assert file_size(url) == 256
        assert read_range(url, 10, 5) == bytes(range(10, 15))
        assert read_ranges(url, [(250, 6), (0, 0), (3, 2)]) == [bytes(range(250, 256)), b"", b"\3\4"]
    with pytest.raises(DataError, match="contains the host data: a local file is file:///path"):
        file_size("file://data/a.tar")


def test_a_file_is_opened_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmcomponents.data.storage.local as local

    opened = []
    real = local.open_regular

    def count(path: str) -> IO[bytes]:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(local, "open_regular", count)
    read_ranges(str(file), [(0, 1), (100, 1), (200, 1)])
    assert len(opened) == 1


def test_what_cannot_be_read(file: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "b.tar")
    assert not exists(missing)
    assert not exists(str(file / "below"))
    assert not exists(str(tmp_path))
    with pytest.raises(MissingError, match=r"b\.tar does not exist"):
        read_range(missing, 0, 1)
    with pytest.raises(MissingError, match="is a folder, not a file"):
        file_size(str(tmp_path))
    with pytest.raises(StorageError, match="has 6 of the 10 bytes at 250"):
        read_range(str(file), 250, 10)
    with pytest.raises(StorageError, match="could not be read: Is a directory"):
        read_range(str(tmp_path), 0, 1)
    for offset, size in ((-1, 5), (0, -5)):
        with pytest.raises(StorageError, match=f"has no {size} bytes at {offset}"):
            read_range(str(file), offset, size)
    with pytest.raises(StorageError, match="could not be read: File name too long"):
        exists("x" * 300)
