from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage import (
    MissingError,
    StorageError,
    exists,
    expand,
    is_remote,
    read_ranges,
)

from .conftest import Patience, file_size, read_range

URL = "memory://data/a-000.tar"
DATA = bytes(range(256)) * 1000


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    memory.pipe("/data/a-000.tar", DATA)
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


class Failing:
    """Replaces a method of a driver: raises the given errors, then calls the method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, errors: list[Exception]) -> None:
        self.errors, self.calls, real = errors, 0, getattr(MemoryFileSystem, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return real(*args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, method, call)


def test_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Failing(monkeypatch, "cat_file", [])
    assert is_remote(URL)
    assert file_size(URL) == len(DATA)
    assert read_range(URL, 300, 50) == DATA[300:350]
    assert calls.calls == 1
    asked = [(200_000, 10), (5, 5), (40, 1), (9, 0)]
    assert read_ranges(URL, asked) == [DATA[o : o + n] for o, n in asked]
    assert calls.calls == 3
    with pytest.raises(StorageError, match=r"a-000\.tar has 10 of the 20 bytes at 255990"):
        read_range(URL, len(DATA) - 10, 20)


def test_missing_files() -> None:
    assert exists(URL)
    assert not exists("memory://data/b.tar")
    assert not exists("memory://data")
    with pytest.raises(MissingError, match="does not exist"):
        read_range("memory://data/b.tar", 0, 1)


def test_transient_errors(monkeypatch: pytest.MonkeyPatch, patience: Patience) -> None:
    passing = [OSError("reset"), TimeoutError(), fsspec.exceptions.FSTimeoutError()]
    Failing(monkeypatch, "cat_file", list(passing))
    assert read_range(URL, 1, 2, patience.retry) == DATA[1:3]
    assert patience.pauses == [0.5, 1.0, 2.0]
    Failing(monkeypatch, "info", [*passing, OSError("cannot GET https://me:word@host/a?sig=h1dden")])
    with pytest.raises(StorageError, match="after 4 tries: OSError: cannot GET https://host/a") as failure:
        exists(URL, patience.retry)
    assert "h1dden" not in str(failure.value)


@pytest.mark.parametrize("error", [PermissionError("no"), RuntimeError("no credentials"), NotImplementedError()])
def test_permanent_errors(monkeypatch: pytest.MonkeyPatch, patience: Patience, error: Exception) -> None:
    Failing(monkeypatch, "info", [error])
    with pytest.raises(StorageError, match=f"could not be read: {type(error).__name__}"):
        exists(URL, patience.retry)
    assert patience.pauses == []


def test_missing_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two schemes whose module cannot be imported, independent of the installed packages.
    registry = importlib.import_module("fsspec.registry")
    for scheme, words in (("s3", "Install s3fs"), ("other", "Look at other.example")):
        monkeypatch.setitem(registry.known_implementations, scheme, {"class": "no_such_module.FS", "err": words})
        monkeypatch.delitem(registry._registry, scheme, raising=False)
    with pytest.raises(DataError, match=r"s3:// needs a driver that is not installed: pip install s3fs"):
        read_range("s3://bucket/a.tar", 0, 1)
    with pytest.raises(DataError, match=r"not installed: Look at other\.example"):
        expand("other://bucket/a-{0..3}.tar")
    with pytest.raises(DataError, match="nonsense://a cannot be opened: Protocol not known: nonsense"):
        exists("nonsense://a")


def test_patterns(memory: Any) -> None:
    for name in ("a-001.tar", "a-002.tar", "a-000.json", "below/b.tar"):
        memory.pipe(f"/data/{name}", b"x")
    shards = [f"memory://data/a-{n:03d}.tar" for n in range(3)]
    assert expand("memory://data/a-*.tar") == shards
    assert expand("memory://data/a-00[12].tar") == shards[1:]
    assert expand("memory://data") == expand("memory://data/") == shards
    assert expand("memory://data/{a-000,c-000}.tar") == [shards[0], "memory://data/c-000.tar"]
    assert expand("memory://{data,data/below}/*.tar") == [*shards, "memory://data/below/b.tar"]
    for pattern in ("memory://data/z*.tar", "memory://data/{a-*,z*}.tar"):
        with pytest.raises(DataError, match=r"no file matches memory://data/z\*\.tar"):
            expand(pattern)
    memory.mkdir("/empty")
    with pytest.raises(DataError, match="no file matches memory://empty"):
        expand("memory://empty")


def test_cached_listings_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    invalidations = Failing(monkeypatch, "invalidate_cache", [])
    exists(URL)
    expand("memory://data/*.tar")
    assert invalidations.calls == 2
