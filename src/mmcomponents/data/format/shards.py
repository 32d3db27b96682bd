"""WebDataset tar shards: deterministic writing, listing, and reading of members by offset.

A sample with key K consists of `K.json`, its media `K.0.png`, `K.1.mp4`, … numbered in the order of their placeholders
(a single image may also be `K.png`), and the members that its record kind declares, such as `K.actions.npy`. See
`mmcomponents.data.chat.kinds` for the JSON. Only writing and listing depend on the tar format: reading takes a path, an
offset and a size, so any sample takes one seek.
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

from mmcomponents.data.errors import DataError, SampleError, demo_kind
from mmcomponents.data.storage import check_member_name, expand, fetch, read_ranges, redact
from mmcomponents.data.storage.atomic_write import atomic_path
from mmcomponents.data.storage.regular_file import open_regular

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "avif", "jp2")
VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "ogv", "wmv", "asf", "gifv")
GIF_VIDEO = "gifv"
"""Suffix of a GIF file that is a video, as `gif` is that of an image."""
MAX_JSON = 16_000_000
"""Maximum size of a sample's JSON in bytes; a larger one is an error and would exhaust a worker's memory."""


_META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset keeps for its own members."""


class Member(NamedTuple):
    """A file in a shard: its name after the key, and the offset and size of its bytes."""

    suffix: str
    offset: int
    size: int


class Listed(NamedTuple):
    """A sample found in a shard; `problem` is the reason why it cannot be used, or ""."""

    key: str
    members: list[Member]
    problem: str = ""


class Shard:
    """A shard open for writing, see `open_shard`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.samples = 0

    def write(
        self,
        key: str,
        record: Mapping[str, Any],
        files: Iterable[tuple[str, bytes]] = (),
        members: Mapping[str, bytes] | None = None,
    ) -> None:
        """Adds one sample.

        Args:
            key: Unique in the shard and without dots, since a dot ends the key in member names.
            record: See `mmcomponents.data.chat.kinds`; stored as JSON.
            files: Suffix and bytes of each image and video, in the order of their placeholders.
            members: Content of each further member, by suffix, see `RecordKind.members`.

        Raises:
            ValueError: The key is empty or contains a dot.
        """
        if not key or "." in key:
            raise ValueError(f"a key must be non-empty and without dots: {key!r}")
        check_member_name(key)
        media = {f"{number}.{suffix}": data for number, (suffix, data) in enumerate(files)}
        text = json.dumps(record, ensure_ascii=False, sort_keys=True)
        self._writer.write({"__key__": key, "json": text.encode("utf-8", "surrogatepass"), **media, **(members or {})})
        self.samples += 1


@contextmanager
def open_shard(path: str | Path) -> Iterator[Shard]:
    """Writes a shard to a temporary file and moves it to its final path when it is complete.

    Equal samples give equal bytes.

    Args:
        path: `NAME-000000.tar`; its folder is created if necessary.
    """
    import webdataset

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Without owner and time, the bytes are the same for each run. The GNU format does not limit name lengths.
        writer = webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="", format="GNU_FORMAT")
        yield Shard(writer)
        writer.close()


class ShardWriter:
    """Context manager that writes samples into numbered shards, `PREFIX-000000.tar` and so on.

    Args:
        folder: Folder of the shards; created if necessary.
        prefix: Prefix of the shards' names.
        samples_per_shard: Maximum number of samples per shard.

    Raises:
        ValueError: `samples_per_shard` is not positive.
    """

    def __init__(self, folder: str | Path, prefix: str, samples_per_shard: int = 10_000) -> None:
        if samples_per_shard < 1:
            raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
        self.folder, self.prefix, self.samples_per_shard = Path(folder), prefix, samples_per_shard
        self.paths: list[Path] = []
        self._open: Any = None
        self._shard: Shard | None = None

    def write(
        self,
        key: str,
        record: Mapping[str, Any],
        files: Iterable[tuple[str, bytes]] = (),
        members: Mapping[str, bytes] | None = None,
    ) -> None:
        """Adds one sample, see `Shard.write`."""
        if self._shard is None or self._shard.samples >= self.samples_per_shard:
            self._finish(None, None, None)
            path = self.folder / f"{self.prefix}-{len(self.paths):06d}.tar"
            self._open = open_shard(path)
            self._shard = self._open.__enter__()
            self.paths.append(path)
        self._shard.write(key, record, files, members)

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
    """Returns the folder for downloaded files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmcomponents"


def find_shards(where: str | Sequence[str], allow_pipe: bool = False) -> list[str]:
    """Finds shards by name, pattern, folder or address.

    Args:
        where: Tar files, patterns such as `data/train-*.tar` or `https://host/train-{000000..000099}.tar`, folders (all
            their tar files), or addresses supported by fsspec (`s3://bucket/train-*.tar`).
        allow_pipe: Whether a `pipe:COMMAND` may run its shell command; its output is kept as a shard in the cache.

    Returns:
        The distinct shards, sorted for each pattern.

    Raises:
        DataError: A pattern matches no shard, or a `pipe:COMMAND` fails or is not allowed.
    """
    found: dict[str, None] = {}
    for pattern in [where] if isinstance(where, str) else where:
        if pattern.startswith("pipe:"):
            try:
                found[str(fetch(pattern, cache_folder(), allow_pipe=allow_pipe))] = None
            except SampleError as error:  # from the storage; not a matter of a single sample here
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
                f"no shard matches {redact(pattern)}; `mmcomponents data {demo_kind(pattern)} --out FOLDER` makes a"
                " small data set, `mmcomponents data convert` makes shards from annotations, and `mmcomponents"
                " data index` indexes existing shards"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def list_shard(path: str | Path) -> Iterator[Listed]:
    """Yields the key and members of each sample of a shard, without reading their contents.

    A sample that is incomplete, duplicated or whose name leaves the folder is listed with its problem. If the rest of a
    shard cannot be read, the last sample listed has that problem.

    Raises:
        DataError: The file cannot be read or is not a tar file.
    """
    seen, key, members, problem = set[str](), "", list[Member](), ""
    end, broken = 0, ""
    try:
        size = os.path.getsize(path)
        file = open_regular(path)
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
                if not stem or not suffix or _META.match(entry.name):
                    continue  # as in webdataset, which groups no such member into a sample
                entry_key = f"{folder}/{stem}" if folder else stem
                if entry_key != key or not members:
                    if members:
                        yield Listed(key, members, problem)
                    key, members, problem = entry_key, [], ""
                    if key in seen:
                        problem = f"the key {key} occurs twice, or its members are not consecutive"
                    seen.add(key)
                problem = _name_problem(entry.name) or problem
                if any(member.suffix == suffix for member in members):
                    problem = f"the member {entry.name} occurs twice"
                available = max(0, size - entry.offset_data)
                if entry.issparse() or entry.size > available:
                    problem = f"the shard ends inside {entry.name}"
                members.append(Member(suffix, entry.offset_data, min(entry.size, available)))
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError, RecursionError) as error:
            broken = str(error) or type(error).__name__
            if not members:
                raise DataError(_not_tar(path, file, str(error))) from error
        # tarfile treats an unreadable header as the end. The actual end is at least one block of zeros.
        file.seek(min(end, size))
        block = file.read(512)
        if end == 0 and (broken or len(block) < 512 or block.strip(b"\0")):
            raise DataError(_not_tar(path, file))
    if len(block) < 512 or block.strip(b"\0"):
        broken = broken or "the end of the archive is missing"
    if broken:
        # the last sample may lack members, which cannot be detected
        problem = problem or f"the shard is truncated or damaged at byte {end}, after this sample: {broken}"
    if members:
        yield Listed(key, members, problem)


_PACKED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
"""First bytes of compressed files, whose samples cannot be read by offset, and the programs that unpack them."""


def _not_tar(path: str | Path, file: IO[bytes], reason: str = "") -> str:
    file.seek(0)
    begin = file.read(8)
    for magic, program in _PACKED.items():
        if begin.startswith(magic):
            return f"{path} is compressed; {program} it first"
    return f"{path} is not a tar file{f': {reason}' if reason else ''}"


_LONGEST_HEADER = 256 * 1024


class _Headers:
    """File wrapper for tarfile that limits reads, since a header may declare any size to be read into memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, _LONGEST_HEADER))


def _entries(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode="r:") as archive:
        for entry in archive:
            yield entry
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all members otherwise


def _name_problem(name: str) -> str:
    try:
        check_member_name(name)
    except SampleError as error:
        return str(error)
    return ""


def media_members(members: Sequence[Member], suffixes: Sequence[str]) -> list[Member]:
    """Returns the members of a sample that have one of the given suffixes, in the order of their numbers."""

    def number(member: Member) -> int:
        match = re.match(r"([0-9]{1,18})\.", member.suffix)
        return int(match.group(1)) if match else 0

    return sorted((m for m in members if m.suffix.rpartition(".")[2].lower() in suffixes), key=number)


def json_member(members: Sequence[Member]) -> Member:
    """Returns the JSON member of a sample.

    Raises:
        SampleError: The sample has none, or it exceeds `MAX_JSON`.
    """
    for member in members:
        if member.suffix == "json":
            if member.size > MAX_JSON:
                raise SampleError(f"the .json member has {member.size} bytes, more than {MAX_JSON}")
            return member
    names = ", ".join(f".{member.suffix[:40]}" for member in members[:6])
    raise SampleError(f"the sample has no .json member, but {names} (`mmcomponents data convert` makes shards)")


def read_members(url: str, members: Sequence[Member]) -> list[bytes]:
    """Reads members of a shard by their offsets.

    Raises:
        SampleError: The shard is missing, or ends before a member does.
    """
    return read_ranges(url, [(member.offset, member.size) for member in members])
