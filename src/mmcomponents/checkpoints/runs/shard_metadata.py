"""Reading of a sharded checkpoint's description without running code.

torch.distributed.checkpoint describes a folder in `.metadata`, a pickle, and stores what is not a tensor (the settings
of the optimizer) as further pickles. torch reads both without restriction, so that a foreign folder could run code.
Here the pickle of the description is read into inert records, from which torch's metadata is made with checks of all
types: it never has access to a real class, since a pickle can also change attributes of classes.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from mmcomponents.checkpoints.checkpoint_error import CheckpointError

METADATA = ".metadata"

_TYPES = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_TYPES, "BytesStorageMetadata"),
    (_TYPES, "ChunkStorageMetadata"),
    (_TYPES, "Metadata"),
    (_TYPES, "MetadataIndex"),
    (_TYPES, "StorageMeta"),
    (_TYPES, "TensorProperties"),
    (_TYPES, "TensorStorageMetadata"),
    (_TYPES, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # from Python 3.13
}
"""Names that the description of a checkpoint consists of. Data types of torch are allowed as well."""


class ShardReader(FileSystemReader):
    """torch's reader of sharded checkpoints, with a description that is read without running code."""

    @cached_property
    def metadata(self) -> Metadata:
        """Description of the checkpoint, read once."""
        return read_metadata(Path(self.path))

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Returns the description.

        Raises:
            CheckpointError: It cannot be read, or is not the description of a checkpoint.
        """
        storage = self.metadata.storage_meta or StorageMeta()
        storage.load_id = self.load_id
        self.metadata.storage_meta = storage
        return self.metadata


class PlainPlanner(DefaultLoadPlanner):
    """torch's planner, which accepts plain data only in the place of what is not a tensor."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Reads an entry without running code, and hands torch a copy made of plain data."""
        copy = io.BytesIO()
        torch.save(_plain(str(read_item.dest_index.fqn), value), copy)
        copy.seek(0)
        super().load_bytes(read_item, copy)


def read_metadata(folder: Path) -> Metadata:
    """Returns the description of a sharded checkpoint.

    Raises:
        CheckpointError: It cannot be read, or is not the description of a checkpoint.
    """
    path = folder / METADATA
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a checkpoint of a run: it has no {METADATA}")
    try:
        with path.open("rb") as file:
            return _metadata(_RecordUnpickler(file).load())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle raises exceptions of many types
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__} {error}") from None


def check_shards(folder: Path) -> None:
    """Checks that the pieces of a sharded checkpoint exist, complete each tensor, and run no code when they are read.

    Raises:
        CheckpointError: A piece is missing, shorter than described, outside the folder, or would run code.
    """
    metadata = read_metadata(folder)
    sizes: dict[str, int] = {}
    for name, place in metadata.storage_data.items():
        file = place.relative_path
        if file not in sizes:
            if Path(file).name != file or not (folder / file).is_file():
                raise CheckpointError(f"{folder} lacks the file {file!r} of its {METADATA}")
            sizes[file] = (folder / file).stat().st_size
        if not 0 <= place.offset <= place.offset + place.length <= sizes[file]:
            raise CheckpointError(f"{folder / file} is cut off: it has {sizes[file]} bytes, {name.fqn} ends beyond")
    for name, kind in metadata.state_dict_metadata.items():
        if isinstance(kind, TensorStorageMetadata):
            _check_chunks(folder, name, kind, metadata)
            continue
        place = _place(folder, MetadataIndex(name), metadata)
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            _plain(f"{folder}: {name}", io.BytesIO(file.read(place.length)))


def _check_chunks(folder: Path, name: str, kind: TensorStorageMetadata, metadata: Metadata) -> None:
    """Checks that the chunks of a tensor lie inside it, differ, and have as many values as it has."""
    for chunk in kind.chunks:
        _place(folder, MetadataIndex(name, chunk.offsets), metadata)
        ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
        if any(end > most for end, most in zip(ends, kind.size, strict=True)):
            raise CheckpointError(f"{folder}: a piece of {name} ends outside of the tensor")
    values = sum(math.prod(chunk.sizes) for chunk in kind.chunks)
    if values != math.prod(kind.size) or len({chunk.offsets for chunk in kind.chunks}) != len(kind.chunks):
        raise CheckpointError(f"{folder}: {name} has {math.prod(kind.size)} values and its pieces have {values}")


def _place(folder: Path, index: MetadataIndex, metadata: Metadata) -> Any:
    if index not in metadata.storage_data:
        raise CheckpointError(f"{folder} lacks a piece of {index.fqn}")
    return metadata.storage_data[index]


def _plain(where: str, payload: io.BytesIO) -> Any:
    """Reads an entry that is not a tensor."""
    try:
        return torch.load(payload, weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{where} is not plain data, and could run code when it is read") from None
    except Exception as error:
        raise CheckpointError(f"{where} cannot be read: {type(error).__name__}") from None


class _Record:
    """Stands for an object of the pickle.

    Attributes:
        name: Name of its class or function.
        arguments: What it was called with.
    """

    name = ""
    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state if isinstance(state, dict) else {"state": state})


class _RecordUnpickler(pickle.Unpickler):
    """Unpickler that makes records of all objects; the names in `_ALLOWED` are the only ones it accepts."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns a new subclass of `_Record`, or a data type of torch.

        Raises:
            CheckpointError: The name is not allowed.
        """
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) not in _ALLOWED:
            raise CheckpointError(f"it refers to {module}.{name}, which could run code; the folder is not opened")
        return type(name, (_Record,), {"name": name})


def _metadata(raw: Any) -> Metadata:
    """Makes torch's description from records.

    Raises:
        CheckpointError: A record has another type than torch writes.
    """
    fields = _fields(raw, "Metadata")
    tensors = _typed(fields["state_dict_metadata"], dict)
    places = _typed(fields["storage_data"], dict)
    return Metadata(
        state_dict_metadata={_typed(name, str): _entry(kind) for name, kind in tensors.items()},
        storage_data={_index(index): _storage(place) for index, place in places.items()},
        storage_meta=StorageMeta(),
    )


def _entry(raw: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if _is(raw, "BytesStorageMetadata"):
        return BytesStorageMetadata()
    fields = _fields(raw, "TensorStorageMetadata")
    state = fields["properties"]
    # Its state is a tuple in which the data type is the first value.
    dtype = next(value for value in _values(state) if isinstance(value, torch.dtype))
    chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in _typed(fields["chunks"], list)]
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=dtype),
        size=_size(fields["size"]),
        chunks=[ChunkStorageMetadata(_size(chunk["offsets"]), _size(chunk["sizes"])) for chunk in chunks],
    )


def _index(raw: Any) -> MetadataIndex:
    fields = _fields(raw, "MetadataIndex")
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _typed(fields["fqn"], str),
        None if offset is None else _size(offset),
        None if index is None else _typed(index, int),
    )


def _storage(raw: Any) -> _StorageInfo:
    fields = _fields(raw, "_StorageInfo")
    if fields.get("transform_descriptors"):
        raise CheckpointError("its pieces are compressed or encrypted, which is not supported")
    return _StorageInfo(*(_typed(fields[n], t) for n, t in (("relative_path", str), ("offset", int), ("length", int))))


def _size(raw: Any) -> torch.Size:
    if not _is(raw, "Size") or len(raw.arguments) != 1:
        raise CheckpointError("it does not describe a checkpoint: a size is missing")
    values = _typed(raw.arguments[0], tuple)
    if not all(isinstance(value, int) and value >= 0 for value in values):
        raise CheckpointError("it does not describe a checkpoint: a size is negative or no number")
    return torch.Size(values)


def _fields(raw: Any, name: str) -> Mapping[str, Any]:
    if not _is(raw, name):
        raise CheckpointError(f"it does not describe a checkpoint: {name} expected")
    return dict(vars(raw))


def _is(raw: Any, name: str) -> bool:
    return isinstance(raw, _Record) and type(raw).name == name


def _values(raw: Any) -> tuple[Any, ...]:
    return _typed(vars(raw).get("state"), tuple) if isinstance(raw, _Record) else ()


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise CheckpointError(f"it does not describe a checkpoint: {kind.__name__} expected")
    return value
