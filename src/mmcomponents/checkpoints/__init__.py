"""Checkpoints: read from every format, written to every format, shard by shard."""

from mmcomponents.checkpoints.adapters import merge_adapters
from mmcomponents.checkpoints.checkpoint import Checkpoint, load, read
from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.export import WRITTEN, convert, save
from mmcomponents.checkpoints.initial import Folders, check_initial, load_initial
from mmcomponents.checkpoints.spec import ModelSpec, Processing

__all__ = [
    "WRITTEN",
    "Checkpoint",
    "CheckpointError",
    "Folders",
    "ModelSpec",
    "Processing",
    "check_initial",
    "convert",
    "load",
    "load_initial",
    "merge_adapters",
    "read",
    "save",
]
