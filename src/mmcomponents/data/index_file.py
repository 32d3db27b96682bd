"""The index of one shard as a file: safetensors, columns as tensors, the rest as JSON in its header.

Beside `train-000000.tar` lies `train-000000.index.safetensors`. It holds what does not depend on the settings of a run:
the members' offsets, the images' widths and heights, the videos' frames, and the number of text tokens. The tiling may
change without a new index. The tokenizer may not: the index knows its fingerprint. Digests tell a damaged index from a
whole one: a run that packed by wrong sizes would not fail, it would run out of memory some day.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.rows import Column, Rows
from mmcomponents.data.shards import Member

VERSION = 2
SUFFIX = ".index.safetensors"


@dataclass(frozen=True)
class Header:
    """What an index says about itself.

    Attributes:
        version: Of the format.
        fingerprint: Of the tokenizer.
        frame_template: Text of a frame of a video.
        shard_bytes: Size of the shard.
        samples: Samples of the shard.
        sources: Names of the sources.
        suffixes: Names of members, after the key.
        problems: Why samples cannot be used, by their numbers.
    """

    version: int
    fingerprint: str
    frame_template: str
    shard_bytes: int
    samples: int
    sources: list[str]
    suffixes: list[str]
    problems: dict[int, str]


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard.

    Attributes:
        header: What it says about itself.
        rows: What packs are planned from.
        key_text: UTF-8 of all keys, one behind the other.
        key_begin: `[n+1]` where each key begins.
        member_begin: `[n+1]` where each sample's members begin.
        member_suffix: `[m]` number of the name.
        member_offset: `[m]` where the bytes begin in the shard.
        member_size: `[m]` number of bytes.
    """

    header: Header
    rows: Rows
    key_text: Column
    key_begin: Column
    member_begin: Column
    member_suffix: Column
    member_offset: Column
    member_size: Column

    @cached_property
    def _keys(self) -> bytes:
        return self.key_text.tobytes()

    def key(self, sample: int) -> str:
        """Key of a sample within the shard."""
        return self._keys[int(self.key_begin[sample]) : int(self.key_begin[sample + 1])].decode("utf-8", "replace")

    def members(self, sample: int) -> list[Member]:
        """The files of a sample."""
        span = slice(int(self.member_begin[sample]), int(self.member_begin[sample + 1]))
        columns = (self.member_suffix[span], self.member_offset[span], self.member_size[span])
        return [
            Member(self.header.suffixes[suffix], offset, size)
            for suffix, offset, size in zip(*(column.tolist() for column in columns), strict=True)
        ]


_ROWS = tuple(field.name for field in fields(Rows))
_OWN = tuple(field.name for field in fields(ShardIndex) if field.name not in ("header", "rows"))


def index_path(shard: str | Path, folder: str | Path | None = None) -> Path:
    """Where the index of a shard lies: beside it, or in a folder of indices."""
    name = Path(str(shard).rpartition("/")[2] if "://" in str(shard) else Path(shard).name).with_suffix(SUFFIX)
    return (Path(folder) if folder is not None else Path(shard).parent) / name


def save_index(index: ShardIndex, path: Path) -> None:
    """Writes an index; a reader sees the old one or the new one, never half of it. The same index, the same bytes."""
    from safetensors.numpy import save

    columns = {name: getattr(index.rows, name) for name in _ROWS} | {name: getattr(index, name) for name in _OWN}
    about = {field.name: getattr(index.header, field.name) for field in fields(Header)}
    text = json.dumps({"header": about, "columns": _digest(columns)}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # One key: safetensors writes several in an order that changes from run to run.
        header = {"index": _hash(text.encode()) + text}
        data = save({name: np.ascontiguousarray(column) for name, column in columns.items()}, header)
        temporary.write_bytes(data)  # safetensors' own save_file lets nobody else read the file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest(columns: Mapping[str, Column]) -> str:
    found = [(name, str(column.dtype), column.shape, _hash(column.tobytes())) for name, column in columns.items()]
    return _hash(repr(sorted(found)).encode())


def read_header(path: Path) -> Header:
    """Reads what an index says about itself.

    Raises:
        DataError: The file is no index, damaged, or one of another version.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[Header, str]:
    """The header, and the digest of the columns."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {})["index"]
        digest, text = text[: len(_hash(b""))], text[len(_hash(b"")) :]
        if _hash(text.encode()) != digest:
            raise DataError(f"the index {path} is damaged, or of another version than {VERSION}")
        found: dict[str, Any] = json.loads(text)
        about = found["header"]
        if about.get("version") != VERSION:
            raise DataError(f"the index {path} is of version {about.get('version')}, this is {VERSION}")
        about["problems"] = {int(number): reason for number, reason in about["problems"].items()}
        return Header(**about), found["columns"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the index {path} cannot be read ({error})") from error


def load_index(path: Path) -> ShardIndex:
    """Reads a whole index.

    Raises:
        DataError: The file is no index, damaged, or one of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header, digest = _read_header(path)
    try:
        columns = load_file(path)
        if _digest(columns) != digest:
            raise DataError(f"the index {path} is damaged")
        return ShardIndex(
            header, Rows(**{name: columns[name] for name in _ROWS}), **{name: columns[name] for name in _OWN}
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"the index {path} cannot be read ({error})") from error
