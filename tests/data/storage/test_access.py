from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.storage import access, compressed_tars, exists, expand, is_remote

from .conftest import file_size, read_range


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("a.tar", False),
        ("/data/a.tar", False),
        ("../a:b/c.tar", False),
        ("C:\\data\\a.tar", False),
        ("file:///data/a.tar", False),
        ("http://host/a.tar", True),
        ("HTTPS://host/a.tar", True),
        ("s3://bucket/a.tar", True),
        ("simplecache::s3://bucket/a.tar", True),
        ("pipe:cat a.tar", True),
    ],
)
def test_what_is_remote(url: str, remote: bool) -> None:
    assert is_remote(url) is remote


def test_compressed_tars_are_seen(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tgz", "notes.gz"):
        (tmp_path / name).touch()
    assert compressed_tars(str(tmp_path)) == compressed_tars(tmp_path.as_uri()) == ["a.tar.gz", "b.tgz"]
    with pytest.raises(DataError, match=r"has no \*\.tar, only 2 compressed \(a\.tar\.gz\): unpack to \.tar first"):
        expand(str(tmp_path))
    for other in (str(tmp_path / "a.tar.gz"), "s3://bucket/x", "pipe:cat x", "x" * 5000):
        assert compressed_tars(other) == []


def test_patterns_on_disk(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a-000.tar", "a-001.tar", "a-002.tar", "a-000.tar.index.npz", "below/b.tar", "x{1,2}.tar"):
        (tmp_path / name).touch()
    shards = [str(tmp_path / f"a-{n:03d}.tar") for n in range(3)]
    assert expand(f"{tmp_path}/a-{{000..002}}.tar") == shards
    assert expand(f"{tmp_path}/a-*.tar") == shards
    assert expand(f"{tmp_path}/a-00[12].tar") == shards[1:]
    assert expand(str(tmp_path)) == [*shards, str(tmp_path / "x{1,2}.tar")]
    assert expand(tmp_path.as_uri() + "/a-{001,002}.tar") == shards[1:]
    assert expand(f"{tmp_path}/**/b.tar") == [str(tmp_path / "below/b.tar")]
    assert expand(shards[0]) == [shards[0]]
    assert expand(f"{tmp_path}/x{{1,2}}.tar") == [str(tmp_path / "x{1,2}.tar")]
    assert expand(f"{tmp_path}/{{below,a-*.tar}}") == [str(tmp_path / "below/b.tar"), *shards]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a-{000..003}.tar", r"a-003\.tar does not exist"),
        ("b*.tar", r"no file matches .*b\*\.tar"),
        ("empty", r"empty has no \*\.tar"),
        ("a-{000.tar", "has an unmatched brace"),
    ],
)
def test_patterns_without_files(tmp_path: Path, pattern: str, words: str) -> None:
    (tmp_path / "empty").mkdir()
    for n in range(3):
        (tmp_path / f"a-{n:03d}.tar").touch()
    with pytest.raises(DataError, match=words):
        expand(f"{tmp_path}/{pattern}")


def test_commands_are_refused() -> None:
    with pytest.raises(DataError, match=r"^pipe:curl … runs a shell command: set allow_pipe if you trust its source"):
        expand("pipe:curl -H 'Secret: x' http://host/{0..3}.tar")
    commands = expand(r"pipe:cat {a,b}.tar | sed 's/\./{}/'", allow_pipe=True)
    assert commands == [r"pipe:cat a.tar | sed 's/\./{}/'", r"pipe:cat b.tar | sed 's/\./{}/'"]
    for refuses in (lambda: read_range(commands[0], 0, 5), lambda: file_size(commands[0]), lambda: exists(commands[0])):
        with pytest.raises(DataError, match=r"pipe:cat … .*: save its output with fetch and read the saved file"):
            refuses()


def test_too_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MOST_FILES", 50)
    assert len(expand("http://host/{01..50}.tar")) == 50
    with pytest.raises(DataError, match=r"http://host/\{01\.\.51\}\.tar expands to more than 50 files"):
        expand("http://host/{01..51}.tar")
