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
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.columns import OPTIONAL, Column, Columns
from mmcomponents.data.format.index_check import check_columns, check_header
from mmcomponents.data.format.index_content import Header, ShardIndex
from mmcomponents.data.storage.atomic_write import atomic_path

VERSION = 2
SUFFIX = ".index.safetensors"


_COLUMNS = tuple(field.name for field in fields(Columns))
_OWN = tuple(field.name for field in fields(ShardIndex) if field.name not in ("header", "columns"))


def index_path(shard: str | Path, folder: str | Path | None = None) -> Path:
    """Returns the path of a shard's index: beside the shard, or in a folder of indices."""
    name = Path(str(shard).rpartition("/")[2] if "://" in str(shard) else Path(shard).name).with_suffix(SUFFIX)
    return (Path(folder) if folder is not None else Path(shard).parent) / name


def save_index(index: ShardIndex, path: Path) -> None:
    """Writes an index atomically. Equal indices give equal bytes."""
    from safetensors.numpy import save

    # Without samples of other packages' kinds, an index is the same as before there were any.
    names = [name for name in _COLUMNS if index.header.kinds or name not in OPTIONAL]
    columns = {name: getattr(index.columns, name) for name in names} | {name: getattr(index, name) for name in _OWN}
    about = {field.name: getattr(index.header, field.name) for field in fields(Header)}
    for name in ("kinds", "tile"):
        if not about[name]:
            del about[name]
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
        if not path.is_file():
            raise OSError("it is no file")
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {})["index"]
            stored = file.get_slice("source").get_shape()
        digest, text = text[: len(_hash(b""))], text[len(_hash(b"")) :]
        if _hash(text.encode()) != digest:
            raise DataError(f"it is damaged or has another version than {VERSION}")
        found: dict[str, Any] = json.loads(text)
        about = found["header"]
        if about.get("version") != VERSION:
            raise DataError(f"it has version {about.get('version')}, expected {VERSION}")
        about["problems"] = {int(number): reason for number, reason in about["problems"].items()}
        header = Header(**about)
        check_header(header)
        if stored != [header.samples]:
            raise DataError(f"its header has {header.samples} samples, its columns {stored}")
        return header, found["columns"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
            raise DataError("it is damaged")
        if not header.kinds:
            none = np.zeros(header.samples, np.int8)
            columns |= {"uses": columns["segments"], "own_tiles": none, "kind": none}
        index = ShardIndex(
            header, Columns(**{name: columns[name] for name in _COLUMNS}), **{name: columns[name] for name in _OWN}
        )
        check_columns(index)
        return index
    except (OSError, SafetensorError, KeyError, TypeError, DataError) as error:
        raise DataError(f"the index {path} cannot be read ({error})") from error
