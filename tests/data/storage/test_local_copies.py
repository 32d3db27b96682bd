from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage import MissingError, StorageError, base, fetch
from mmcomponents.data.storage.base import Facts
from mmcomponents.data.storage.local_copies import cache_name

from .conftest import Patience, read_range
from .server import Handler, Server, chunked, cut, headers, status, whole

DATA = os.urandom(200_000)


def seen(folder: Path) -> list[str]:
    """Returns the completed files in a folder; names of locks and partial files start with a dot."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def pieces(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def test_over_http(server: Server, tmp_path: Path, patience: Patience) -> None:
    url, folder = server.url("/data/a.tar?sig=h1dden"), tmp_path / "new" / "cache"
    server.files["/data/a.tar"] = DATA
    server.tricks["/data/a.tar"].extend([status(503), status(503), cut(1000)])
    path = fetch(url, folder, retry=patience.retry)
    assert path.read_bytes() == DATA
    assert path.parent == folder
    assert path.name.endswith("-a.tar")
    assert "h1dden" not in path.name
    assert read_range(str(path), 5, 5) == DATA[5:10]
    assert seen(folder) == [path.name]
    assert pieces(folder) == []


def test_a_file_is_copied_once(server: Server, tmp_path: Path) -> None:
    url = server.url("/a.tar")
    server.files["/a.tar"], server.etags["/a.tar"] = DATA, '"one"'
    path = fetch(url, tmp_path)
    server.log.clear()
    assert fetch(url, tmp_path) == path
    assert [request.range for request in server.log] == ["bytes=0-0"]
    for lock in tmp_path.glob(".*"):
        lock.unlink()
    assert fetch(url, tmp_path) == path
    assert not list(tmp_path.glob(".*")), "a cache is read without writing to it"
    # The same size, another ETag: the old copy remains for its readers.
    server.files["/a.tar"], server.etags["/a.tar"] = DATA[::-1], '"two"'
    other = fetch(url, tmp_path)
    assert other.read_bytes() == DATA[::-1]
    assert path.read_bytes() == DATA
    # A damaged copy is replaced.
    other.write_bytes(b"short")
    assert fetch(url, tmp_path).read_bytes() == DATA[::-1]
    # Another file of the same name.
    server.files["/b/a.tar"] = b"b"
    assert fetch(server.url("/b/a.tar"), tmp_path).read_bytes() == b"b"


def test_without_a_known_size_it_is_copied_each_time(server: Server, tmp_path: Path) -> None:
    server.files["/a.tar"] = DATA
    for content in (DATA, DATA[::-1]):
        server.files["/a.tar"] = content
        server.tricks["/a.tar"].extend([chunked] * 4)
        assert fetch(server.url("/a.tar"), tmp_path).read_bytes() == content


def test_it_changes_during_the_copy(server: Server, tmp_path: Path) -> None:
    def ask(handler: Handler) -> None:
        handler.answer()
        server.files["/a.tar"], server.etags["/a.tar"] = DATA[::-1], '"two"'

    server.files["/a.tar"], server.etags["/a.tar"] = DATA, '"one"'
    server.tricks["/a.tar"].append(ask)
    path = fetch(server.url("/a.tar"), tmp_path)
    assert path.read_bytes() == DATA[::-1]
    assert fetch(server.url("/a.tar"), tmp_path) == path
    # The first content returns: it must not be confused with the copy.
    server.files["/a.tar"], server.etags["/a.tar"] = DATA, '"one"'
    assert fetch(server.url("/a.tar"), tmp_path).read_bytes() == DATA


def test_a_failure_leaves_no_files(server: Server, tmp_path: Path, patience: Patience) -> None:
    server.files["/a.tar"] = DATA
    server.tricks["/a.tar"].extend([cut(1), *[cut(10)] * 9])
    with pytest.raises(StorageError, match="after 4 tries"):
        fetch(server.url("/a.tar"), tmp_path, retry=patience.retry)
    with pytest.raises(MissingError):
        fetch(server.url("/b.tar"), tmp_path)
    assert seen(tmp_path) == []
    assert pieces(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be copied to .*file: (File exists|Not a directory)"):
        fetch(server.url("/a.tar"), tmp_path / "file")


def _fetch(url: str, folder: Path) -> bytes:
    return fetch(url, folder).read_bytes()


def test_several_processes_copy_it_once(server: Server, tmp_path: Path) -> None:
    server.files["/a.tar"] = DATA
    fork = multiprocessing.get_context("fork")
    server.tricks["/a.tar"].extend(
        [lambda handler: handler.answer(pace=0.002 if handler.wanted() != (0, 0) else 0)] * 9
    )
    with fork.Pool(4) as pool:
        found = pool.starmap(_fetch, [(server.url("/a.tar"), tmp_path)] * 4, chunksize=1)
    assert all(content == DATA for content in found)
    assert [request.range for request in server.log].count(f"bytes=0-{len(DATA) - 1}") == 1
    assert len(seen(tmp_path)) == 1


def test_partial_files_are_not_visible(server: Server, tmp_path: Path) -> None:
    server.files["/a.tar"] = DATA
    at_work: list[list[str]] = []

    def half(handler: Handler) -> None:
        headers(200, DATA[:100_000], Content_Length=str(len(DATA)))(handler)
        deadline = time.monotonic() + 2
        while not pieces(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        at_work.append(seen(tmp_path))
        handler.wfile.write(DATA[100_000:])

    server.tricks["/a.tar"].extend([whole, whole, whole, half, whole])
    path = fetch(server.url("/a.tar"), tmp_path)
    assert path.read_bytes() == DATA
    assert at_work == [[]]
    assert seen(tmp_path) == [path.name]


def test_local_files_are_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "a b.tar"
    file.touch()
    assert fetch(str(file), tmp_path / "cache") == file
    assert fetch(file.as_uri(), tmp_path / "cache") == file
    assert not (tmp_path / "cache").exists()
    with pytest.raises(MissingError):
        fetch(str(tmp_path / "b.tar"), tmp_path)


def test_from_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: Patience) -> None:
    monkeypatch.setattr(base, "PIECE", 1000)
    memory = fsspec.filesystem("memory")
    for content in (DATA[:5500], DATA[5500:11_000], b""):
        memory.pipe("/cached/a.tar", content)
        path = fetch("memory://cached/a.tar", tmp_path)
        assert path.read_bytes() == content
    memory.pipe("/cached/a.tar", DATA)
    real, calls = MemoryFileSystem.cat_file, []

    def change(fs: MemoryFileSystem, path: str, **span: int) -> bytes:
        calls.append(span)
        if len(calls) == 2:
            fs.pipe("/cached/a.tar", DATA[::-1])
        content: bytes = real(fs, path, **span)
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", change)
    path = fetch("memory://cached/a.tar", tmp_path, retry=patience.retry)
    assert path.read_bytes() == DATA[::-1], "the copy is repeated, and is of one version"
    assert len(patience.pauses) == 1

    def change_always(fs: MemoryFileSystem, path: str, **span: int) -> bytes:
        content: bytes = real(fs, path, **span)
        calls.append(span)
        fs.pipe("/cached/a.tar", DATA + bytes(len(calls)))
        return content

    memory.pipe("/cached/a.tar", DATA[:7000])
    monkeypatch.setattr(MemoryFileSystem, "cat_file", change_always)
    with pytest.raises(StorageError, match=r"memory://cached/a\.tar could not be read after 4 tries: it changed while"):
        fetch("memory://cached/a.tar", tmp_path, retry=patience.retry)
    memory.rm("/cached", recursive=True)


def test_a_command_runs_once(tmp_path: Path) -> None:
    source, count = tmp_path / "source", tmp_path / "count"
    source.write_bytes(DATA)
    command = f"pipe:echo x >> '{count}'; cat '{source}' | cat"
    with pytest.raises(DataError, match="runs a shell command"):
        fetch(command, tmp_path / "cache")
    assert not count.exists()
    path = fetch(command, tmp_path / "cache", allow_pipe=True)
    assert path.read_bytes() == DATA
    assert fetch(command, tmp_path / "cache", allow_pipe=True) == path
    assert count.read_text() == "x\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo first >&2; echo 'no https://me:h1dden@host/x?h1dden' >&2; exit 3", "status 3: no https://host/x"),
        ("exit 4", "failed with exit status 4: stderr is empty"),
        ("true", "has no output"),
        ("(echo part; exit 5) | cat", "failed with exit status 5"),
        ("yes no | head -c 300000 >&2; exit 6", "failed with exit status 6: no$"),
    ],
)
def test_commands_that_fail(tmp_path: Path, command: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as failure:
        fetch(f"pipe:{command}", tmp_path, allow_pipe=True)
    assert "h1dden" not in str(failure.value)
    assert seen(tmp_path) == []
    assert pieces(tmp_path) == []


def test_names() -> None:
    names = [
        cache_name("http://h/x/a%20b.tar?sig=1", Facts(5, "v")),
        cache_name("http://h/x/a%20b.tar?sig=2", Facts(5, "v")),
        cache_name("http://h/y/a%20b.tar?sig=1", Facts(5, "v")),
        cache_name("http://h/x/a%20b.tar?sig=1", Facts(6, "v")),
        cache_name("http://h/x/a%20b.tar?sig=1", Facts(5, None)),
    ]
    assert len(set(names)) == 5
    assert all(name.endswith("-a_b.tar") for name in names)
    assert len(cache_name("s3://b/" + "x" * 500 + ".tar", Facts(1, None))) < 130
    assert cache_name("s3://b/..%2F..%2Fetc", Facts(1, None)).endswith("-.._.._etc")
    assert "token" not in cache_name("pipe:get --token token.tar", Facts(None, None))
