"""Checkpoint folders: reading every format, writing every format, one shard at a time.

    folder ── Format.spec, Format.rules ──► ModelSpec, {name: Lazy} ── load ──► MultimodalModel
    ModelSpec, weights ── Format.config, rules reversed ──► folder

Formats: `hf` (transformers), `official` (OpenGVLab), `native` (this library), `causal_lm`.
"""

from mmcomponents.checkpoints.adapter_weights import merge_adapters
from mmcomponents.checkpoints.checkpoint import Checkpoint, load, read
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.export_folder import WRITTEN, convert, save
from mmcomponents.checkpoints.initial import Folders, InitialWeights, check_initial, load_initial, warn_of_drawn
from mmcomponents.checkpoints.spec import ModelSpec, Processing

__all__ = [
    "WRITTEN",
    "Checkpoint",
    "CheckpointError",
    "Folders",
    "ModelSpec",
    "Processing",
    "InitialWeights",
    "check_initial",
    "convert",
    "load",
    "load_initial",
    "merge_adapters",
    "read",
    "save",
    "warn_of_drawn",
]
