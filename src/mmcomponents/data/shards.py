"""WebDataset tar shards: writing them with the same bytes for the same samples, and reading any member by its offset.

A sample with key K is a member `K.json` and its media `K.0.png`, `K.1.mp4`, … numbered in the order of their
placeholders (a single image may also be `K.png`). See `mmcomponents.data.records` for the JSON. Only writing and
listing know that a shard is a tar file: reading takes a place, an offset and a size, so any sample is one seek away.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, cast

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.storage import check_member_name, expand, fetch, read_ranges, redact

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif", "jp2")
VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "ogv", "wmv")
MAX_JSON = 16_000_000
"""Bytes of a sample's JSON; a longer one is a mistake, and would take the memory of a worker."""


class Member(NamedTuple):
    """One file inside a shard: what follows the key in its name, and where its bytes are."""

    suffix: str
    offset: int
    size: int


class Listed(NamedTuple):
    """A sample as a shard lists it; `problem` says why it cannot be used, "" where it can."""

    key: str
    members: list[Member]
    problem: str = ""


class Shard:
    """A shard that is being written, see `open_shard`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.samples = 0

    def write(self, key: str, record: Mapping[str, Any], files: Iterable[tuple[str, bytes]] = ()) -> None:
        """Adds one sample.

        Args:
            key: Unique in the shard; no dot, since a dot ends the key in the names of the members.
            record: See `mmcomponents.data.records`, stored as JSON.
            files: Suffix and bytes of each image and video, in the order of their placeholders.
        """
        if not key or "." in key:
            raise ValueError(f"a key is not empty and has no dot: {key!r}")
        check_member_name(key)
        members = {f"{number}.{suffix}": data for number, (suffix, data) in enumerate(files)}
        text = json.dumps(record, ensure_ascii=False, sort_keys=True)
        self._writer.write({"__key__": key, "json": text.encode("utf-8", "surrogatepass"), **members})
        self.samples += 1


@contextmanager
def open_shard(path: str | Path) -> Iterator[Shard]:
    """Writes a shard under another name and moves it to its place when it is whole.

    The same samples make the same bytes.

    Args:
        path: `NAME-000000.tar`; its folder is made if it is missing.
    """
    import webdataset

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            # Owner and time would make each run's bytes different. GNU's format has no limit on the length of a name.
            writer = webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="", format="GNU_FORMAT")
            yield Shard(writer)
            writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ShardWriter:
    """Writes samples into numbered shards, `PREFIX-000000.tar` and so on. A context manager.

    Args:
        folder: Made if it is missing.
        prefix: Of the names of the shards.
        samples_per_shard: Most samples of a shard.

    Raises:
        ValueError: No samples to a shard.
    """

    def __init__(self, folder: str | Path, prefix: str, samples_per_shard: int = 10_000) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
        self.folder, self.prefix, self.samples_per_shard = Path(folder), prefix, samples_per_shard
        self.paths: list[Path] = []
        self._open: Any = None
        self._shard: Shard | None = None

    def write(self, key: str, record: Mapping[str, Any], files: Iterable[tuple[str, bytes]] = ()) -> None:
        """Adds one sample, see `Shard.write`."""
        if self._shard is None or self._shard.samples >= self.samples_per_shard:
            self._finish(None, None, None)
            path = self.folder / f"{self.prefix}-{len(self.paths):06d}.tar"
            self._open = open_shard(path)
            self._shard = self._open.__enter__()
            self.paths.append(path)
        self._shard.write(key, record, files)

    def _finish(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.__exit__(kind, error, trace)
        self._open = self._shard = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish(kind, error, trace)


def cache_folder() -> Path:
    """Where what was fetched is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmcomponents"


def find_shards(where: str | Sequence[str], allow_pipe: bool = False) -> list[str]:
    """Finds shards by name, pattern, folder or address.

    Args:
        where: Each a tar file, a pattern such as `data/train-*.tar` or `https://host/train-{000000..000099}.tar`, a
            folder (all its tar files), or an address that fsspec knows (`s3://bucket/train-*.tar`).
        allow_pipe: Whether a `pipe:COMMAND` runs its shell command; what it writes is kept as a shard in the cache.

    Returns:
        The shards, sorted for each pattern, each once.

    Raises:
        DataError: Something names no shard, or is a `pipe:`.
    """
    found: dict[str, None] = {}
    for pattern in [where] if isinstance(where, str) else where:
        if pattern.startswith("pipe:"):
            try:
                found[str(fetch(pattern, cache_folder(), allow_pipe=allow_pipe))] = None
            except SampleError as error:  # of the storage: here it is no single sample that is missing
                raise DataError(str(error)) from error
            continue
        try:
            matches = expand(pattern)
        except DataError as error:
            matches = []
            if "no file matches" not in str(error):
                raise
        if not matches:
            raise DataError(
                f"no shard matches {redact(pattern)}; `mmcomponents data handwriting --out FOLDER` makes the"
                " quickstart's shards, `mmcomponents data ladder` those of the ladder, `mmcomponents data pack` makes"
                " them of annotations, and `mmcomponents data index` the indices of your own"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def list_shard(path: str | Path) -> Iterator[Listed]:
    """Walks through a shard and gives each sample's key and members, without reading their bytes.

    A sample that is not whole, that comes up a second time or whose name leaves the folder is listed with its problem.
    Where the rest of a shard cannot be read, that is the problem of one more sample, the last.

    Raises:
        DataError: The file cannot be read, or is no tar file at all.
    """
    seen, key, members, problem = set[str](), "", list[Member](), ""
    end, broken = 0, ""
    try:
        size = os.path.getsize(path)
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read: {error.strerror or error}") from error
    with file:
        try:
            for entry in _entries(file):
                if entry.size < 0:
                    raise ValueError(f"{entry.name} has {entry.size} bytes")
                end = entry.offset_data + -(-entry.size // 512) * 512
                if not entry.isfile():
                    continue
                folder, _, name = entry.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                entry_key = f"{folder}/{stem}" if folder else stem
                if entry_key != key or not members:
                    if members:
                        yield Listed(key, members, problem)
                    key, members, problem = entry_key, [], ""
                    if key in seen:
                        problem = f"the key {key} comes up twice, or its members stand apart"
                    seen.add(key)
                problem = _name_problem(entry.name) or problem
                if any(member.suffix == suffix for member in members):
                    problem = f"the member {entry.name} comes up twice"
                there = max(0, size - entry.offset_data)
                if entry.issparse() or entry.size > there:
                    problem = f"the shard ends inside {entry.name}"
                members.append(Member(suffix, entry.offset_data, min(entry.size, there)))
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, RecursionError) as error:
            broken = str(error) or type(error).__name__
            if not members:
                raise DataError(_no_tar(path, file, str(error))) from error
        # tarfile takes a header that it cannot read for the end. The real one is at least one block of zeros.
        file.seek(min(end, size))
        block = file.read(512)
        if end == 0 and (broken or len(block) < 512 or block.strip(b"\0")):
            raise DataError(_no_tar(path, file))
    if len(block) < 512 or block.strip(b"\0"):
        broken = broken or "there is no end of the archive"
    if broken:
        # what came last may lack members, which nobody can know
        problem = problem or f"the shard is cut or broken at byte {end}, behind this sample: {broken}"
    if members:
        yield Listed(key, members, problem)


_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of compressed files, and what unpacks them: no sample of them can be read by its offset."""


def _no_tar(path: str | Path, file: IO[bytes], reason: str = "") -> str:
    file.seek(0)
    begin = file.read(8)
    for magic, program in _PACKED.items():
        if begin.startswith(magic):
            return f"{path} is compressed; {program} it first"
    return f"{path} is no tar file{f': {reason}' if reason else ''}"


_LONGEST_HEADER = 256 * 1024


class _Headers:
    """A file of which tarfile reads headers: it would take memory for as many bytes as one of them asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, _LONGEST_HEADER))


def _entries(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode="r:") as archive:
        for entry in archive:
            yield entry
            archive.members = []  # type: ignore[attr-defined]  # it would keep them all


def _name_problem(name: str) -> str:
    try:
        check_member_name(name)
    except SampleError as error:
        return str(error)
    return ""


def media_members(members: Sequence[Member], suffixes: Sequence[str]) -> list[Member]:
    """The media with one of some suffixes among a sample's members, in the order of their numbers."""

    def number(member: Member) -> int:
        match = re.match(r"([0-9]{1,18})\.", member.suffix)
        return int(match.group(1)) if match else 0

    return sorted((m for m in members if m.suffix.rpartition(".")[2].lower() in suffixes), key=number)


def json_member(members: Sequence[Member]) -> Member:
    """The JSON of a sample.

    Raises:
        SampleError: It has none, or a huge one.
    """
    for member in members:
        if member.suffix == "json":
            if member.size > MAX_JSON:
                raise SampleError(f"the .json member has {member.size} bytes, more than {MAX_JSON}")
            return member
    names = ", ".join(f".{member.suffix[:40]}" for member in members[:6])
    raise SampleError(f"the sample has no .json member, but {names} (`mmcomponents data pack` makes shards)")


def read_members(url: str, members: Sequence[Member]) -> list[bytes]:
    """Reads members of a shard by their offsets.

    Raises:
        SampleError: The shard is gone, or ends before a member does.
    """
    return read_ranges(url, [(member.offset, member.size) for member in members])
