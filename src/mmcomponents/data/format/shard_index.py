"""Index file of one shard: a safetensors file with columns as tensors and the rest as JSON in its header.

The index of `train-000000.tar` is `train-000000.index.safetensors`. It holds what does not depend on the settings of a
run: the members' offsets, the images' widths and heights, the videos' frames, and the numbers of text tokens. Another
tiling needs no new index; another tokenizer does, and the index stores its fingerprint. Digests detect damaged indices:
a run that packs by wrong sizes does not fail at once but runs out of memory later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.columns import Column, Columns
from mmcomponents.data.format.shards import Member
from mmcomponents.data.storage.atomic_write import atomic_path

VERSION = 2
SUFFIX = ".index.safetensors"


@dataclass(frozen=True)
class Header:
    """Metadata of an index.

    Attributes:
        version: Version of the format.
        fingerprint: Fingerprint of the tokenizer.
        frame_template: Text of one video frame.
        shard_bytes: Size of the shard in bytes.
        samples: Number of samples of the shard.
        sources: Names of the sources.
        suffixes: Distinct member names without the key.
        problems: Reasons why samples cannot be used, by sample number.
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
    """Index of one shard with n samples and m members.

    Attributes:
        header: Metadata.
        columns: Columns that packs are planned from.
        key_text: Concatenated keys in UTF-8.
        key_begin: `[n+1]` boundaries of the keys.
        member_begin: `[n+1]` boundaries of each sample's members.
        member_suffix: `[m]` numbers of the suffixes in the header.
        member_offset: `[m]` offsets in the shard in bytes.
        member_size: `[m]` sizes in bytes.
    """

    header: Header
    columns: Columns
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
        """Returns the key of a sample."""
        return self._keys[int(self.key_begin[sample]) : int(self.key_begin[sample + 1])].decode("utf-8", "replace")

    def members(self, sample: int) -> list[Member]:
        """Returns the files of a sample."""
        span = slice(int(self.member_begin[sample]), int(self.member_begin[sample + 1]))
        columns = (self.member_suffix[span], self.member_offset[span], self.member_size[span])
        return [
            Member(self.header.suffixes[suffix], offset, size)
            for suffix, offset, size in zip(*(column.tolist() for column in columns), strict=True)
        ]


_COLUMNS = tuple(field.name for field in fields(Columns))
_OWN = tuple(field.name for field in fields(ShardIndex) if field.name not in ("header", "columns"))


def index_path(shard: str | Path, folder: str | Path | None = None) -> Path:
    """Returns the path of a shard's index: beside the shard, or in a folder of indices."""
    name = Path(str(shard).rpartition("/")[2] if "://" in str(shard) else Path(shard).name).with_suffix(SUFFIX)
    return (Path(folder) if folder is not None else Path(shard).parent) / name


def save_index(index: ShardIndex, path: Path) -> None:
    """Writes an index atomically. Equal indices give equal bytes."""
    from safetensors.numpy import save

    columns = {name: getattr(index.columns, name) for name in _COLUMNS} | {name: getattr(index, name) for name in _OWN}
    about = {field.name: getattr(index.header, field.name) for field in fields(Header)}
    text = json.dumps({"header": about, "columns": _digest(columns)}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        # A single key, because the order in which safetensors writes several changes from run to run.
        header = {"index": _hash(text.encode()) + text}
        data = save({name: np.ascontiguousarray(column) for name, column in columns.items()}, header)
        temporary.write_bytes(data)  # safetensors' save_file creates a file that only its owner can read


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest(columns: Mapping[str, Column]) -> str:
    found = [(name, str(column.dtype), column.shape, _hash(column.tobytes())) for name, column in columns.items()]
    return _hash(repr(sorted(found)).encode())


def read_header(path: Path) -> Header:
    """Reads the metadata of an index.

    Raises:
        DataError: The file is not an index, is damaged, or has another version.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[Header, str]:
    """Returns the header and the digest of the columns."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {})["index"]
        digest, text = text[: len(_hash(b""))], text[len(_hash(b"")) :]
        if _hash(text.encode()) != digest:
            raise DataError(f"the index {path} is damaged or has another version than {VERSION}")
        found: dict[str, Any] = json.loads(text)
        about = found["header"]
        if about.get("version") != VERSION:
            raise DataError(f"the index {path} has version {about.get('version')}, expected {VERSION}")
        about["problems"] = {int(number): reason for number, reason in about["problems"].items()}
        return Header(**about), found["columns"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the index {path} cannot be read ({error})") from error


def load_index(path: Path) -> ShardIndex:
    """Reads a complete index.

    Raises:
        DataError: The file is not an index, is damaged, or has another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    header, digest = _read_header(path)
    try:
        columns = load_file(path)
        if _digest(columns) != digest:
            raise DataError(f"the index {path} is damaged")
        return ShardIndex(
            header, Columns(**{name: columns[name] for name in _COLUMNS}), **{name: columns[name] for name in _OWN}
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"the index {path} cannot be read ({error})") from error
