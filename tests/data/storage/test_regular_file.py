"""Pipes and devices in the place of a file are refused at once, wherever an untrusted file is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents.data.convert.inputs.chunks import source_chunks
from mmcomponents.data.convert.inputs.input_files import find_sources
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.format.shards import list_shard
from mmcomponents.data.media.frames import MiddleFrames
from mmcomponents.data.media.images import load_image
from mmcomponents.data.media.video import read_video
from mmcomponents.data.storage.access import exists, read_ranges
from mmcomponents.data.storage.regular_file import open_regular


@pytest.fixture(params=["pipe", "zeros"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pipe without a writer, or a link to a device without an end."""
    path = tmp_path / "endless.tar"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def meta_of(path: Path) -> None:
    meta = path.with_name("meta.json")
    meta.write_text(f'{{"a": {{"annotation": "{path.name}"}}}}')
    list(source_chunks(0, find_sources([str(meta)], None)[0], 10))


READERS: dict[str, Callable[[Path], object]] = {
    "open": open_regular,
    "shard": lambda path: list(list_shard(path)),
    "members": lambda path: read_ranges(str(path), [(0, 10)]),
    "image": load_image,
    "video": lambda path: read_video(path, MiddleFrames(1)),
    "annotation of a meta file": meta_of,
    "lines": lambda path: list(source_chunks(0, Source("a", (path,), "lines", path.parent), 10)),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused(reader: str, endless: Path) -> None:
    with pytest.raises((OSError, ValueError), match="it is a pipe or a device, not a file"):
        READERS[reader](endless)


def test_what_is_no_file_does_not_exist(endless: Path) -> None:
    assert not exists(str(endless))


def test_a_file_is_read(tmp_path: Path) -> None:
    (path := tmp_path / "a").write_bytes(b"12345")
    with open_regular(path) as file:
        file.seek(1)
        assert file.read(2) == b"23"
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
