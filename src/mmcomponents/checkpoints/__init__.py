"""Checkpoints: read from every format, written to every format, shard by shard."""

from mmcomponents.checkpoints.checkpoint import Checkpoint, load, read
from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.export import WRITTEN, convert, save
from mmcomponents.checkpoints.spec import ModelSpec, Processing

__all__ = ["WRITTEN", "Checkpoint", "CheckpointError", "ModelSpec", "Processing", "convert", "load", "read", "save"]
