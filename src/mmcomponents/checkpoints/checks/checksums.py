"""CRC32 checksums of the tensors of a safetensors file, kept in its metadata.

    {"format": "pt", "mmcomponents.crc32": '{"backbone.norm.weight": 3421780262, …}'}

Programs that rewrite a file usually drop the key; such a file is read without checksums.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError

KEY = "mmcomponents.crc32"
"""Key of the metadata."""


def crc32(value: Tensor) -> int:
    """Returns the checksum of the bytes of a tensor of any shape, in memory order."""
    return zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def as_metadata(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the metadata of a file with these tensors, which have any shape."""
    return {"format": "pt", KEY: json.dumps({name: crc32(tensors[name]) for name in sorted(tensors)})}


def from_metadata(metadata: Mapping[str, str] | None, file: Path) -> dict[str, int] | None:
    """Returns the checksums by name; None if the file has none.

    Args:
        metadata: Metadata of the file.
        file: Its path, for the message.

    Raises:
        CheckpointError: They are damaged.
    """
    text = (metadata or {}).get(KEY)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, int) for value in found.values()):
        raise CheckpointError(f"the metadata {KEY} of {file} is not a table of checksums")
    return found


def damaged(file: Path, name: str) -> str:
    """Returns the message for a tensor that differs from its checksum."""
    return (
        f"{file} is damaged: {name} differs from its checksum in the file's metadata (a program that changes weights on"
        f" purpose has to drop the key {KEY})"
    )
