"""WebDataset tar shards: writing them with the same bytes for the same samples, and reading any member by its offset.

A sample with key K is a member `K.json` and its images `K.0.png`, `K.1.png`, … in the order of their placeholders (a
single image may also be `K.png`, or another format). Only writing and listing know that a shard is a tar file: reading
takes a path, an offset and a size, so any sample is one seek away.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from mmcomponents.data.errors import DataError, SampleError

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff")


class Member(NamedTuple):
    """One file inside a shard: what follows the key in its name, and where its bytes are."""

    suffix: str
    offset: int
    size: int


class ShardWriter:
    """Writes samples into numbered shards, `PREFIX-000000.tar` and so on. A context manager.

    Args:
        folder: Made if it is missing.
        prefix: Of the names of the shards.
        samples_per_shard: Most samples of a shard.
    """

    def __init__(self, folder: str | Path, prefix: str, samples_per_shard: int = 10_000) -> None:
        import webdataset

        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prefix = prefix
        pattern = f"{self.folder / prefix}-%06d.tar".replace("%06d", "\0").replace("%", "%%").replace("\0", "%06d")
        # Owner and time would make each run's bytes different.
        self._writer = webdataset.ShardWriter(
            pattern, maxcount=samples_per_shard, maxsize=2**40, verbose=0, encoder=False, mtime=0, user="", group=""
        )
        self.paths: list[Path] = []

    def write(self, key: str, record: Mapping[str, Any], images: Sequence[bytes] = (), suffix: str = "png") -> None:
        """Adds one sample.

        Args:
            key: Unique in the data set; no dot, since a dot ends the key in the names of the members.
            record: `{"messages": [...], "kinds": [...], "source": ..., ...}`, stored as JSON.
            images: Encoded image files.
            suffix: Format of the images.
        """
        if not key or "." in key:
            raise ValueError(f"a key is not empty and has no dot: {key!r}")
        members = {f"{number}.{suffix}": data for number, data in enumerate(images)}
        text = json.dumps(record, ensure_ascii=False, sort_keys=True)
        self._writer.write({"__key__": key, "json": text.encode(), **members})
        path = Path(self._writer.fname)
        if path not in self.paths:
            self.paths.append(path)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def find_shards(where: str | Sequence[str]) -> list[Path]:
    """Finds shards by name, pattern or folder.

    Args:
        where: Each a tar file, a pattern such as `data/train-*.tar`, or a folder (all its tar files).

    Returns:
        The shards, sorted for each pattern, each once.

    Raises:
        DataError: Something names no shard.
    """
    found: dict[Path, None] = {}
    for pattern in [where] if isinstance(where, str) else where:
        path = Path(pattern)
        matches = sorted(path.glob("*.tar")) if path.is_dir() else [Path(name) for name in sorted(glob(pattern))]
        if not matches:
            raise DataError(
                f"no shard matches {pattern}; `mmcomponents data handwriting --out FOLDER` makes the quickstart's"
                " shards, and `mmcomponents data index` the indices of your own"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def list_shard(path: str | Path) -> Iterator[tuple[str, list[Member]]]:
    """Walks through a shard and gives each sample's key and members, without reading their bytes.

    Raises:
        DataError: The file is no tar file or ends too early, or a key comes up twice.
    """
    key, members, seen = None, list[Member](), set[str]()
    try:
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                folder, _, name = entry.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                entry_key = f"{folder}/{stem}" if folder else stem
                if entry_key != key:
                    if key is not None:
                        yield key, members
                    if entry_key in seen:
                        raise DataError(f"{path}: the key {entry_key} comes up twice, or its members stand apart")
                    seen.add(entry_key)
                    key, members = entry_key, []
                members.append(Member(suffix, entry.offset_data, entry.size))
    except tarfile.TarError as error:
        raise DataError(f"{path} is no complete tar file: {error}") from error
    # A file that was cut between two members looks like a shorter one, but for the zeros that end every archive.
    with open(path, "rb") as shard:
        shard.seek(-1024, os.SEEK_END)
        if shard.read().strip(b"\0"):
            raise DataError(f"{path} is no complete tar file: it does not end as one")
    if key is not None:
        yield key, members


def image_members(members: Sequence[Member]) -> list[Member]:
    """The images among a sample's members, in the order of their numbers."""

    def number(member: Member) -> int:
        match = re.match(r"(\d+)\.", member.suffix)
        return int(match.group(1)) if match else 0

    images = [m for m in members if m.suffix.rpartition(".")[2].lower() in IMAGE_SUFFIXES]
    return sorted(images, key=number)


def read_bytes(path: str | Path, members: Sequence[Member]) -> list[bytes]:
    """Reads members of a shard by their offsets.

    Raises:
        SampleError: The shard ends before a member does.
    """
    contents = []
    with open(path, "rb") as shard:
        for member in members:
            shard.seek(member.offset)
            contents.append(shard.read(member.size))
            if len(contents[-1]) != member.size:
                raise SampleError(f"{member.suffix} has {len(contents[-1])} of its {member.size} bytes")
    return contents


def parse_record(data: bytes) -> dict[str, Any]:
    """Parses a sample's JSON.

    Raises:
        SampleError: It is no JSON object, or has no list of messages.
    """
    try:
        record = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SampleError(f"wrong JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("messages"), list):
        raise SampleError('wrong JSON: no object with a list of "messages"')
    return record
