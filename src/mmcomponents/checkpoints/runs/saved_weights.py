"""Weights of a run's checkpoint: a file of Lightning's, or a folder of shards, with lazily read values."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.initial import Folders
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.checkpoints.runs.checkpoint_writer import CONTENTS
from mmcomponents.checkpoints.runs.frozen_weights import FrozenWeights
from mmcomponents.checkpoints.runs.integrity import verify
from mmcomponents.checkpoints.runs.shard_metadata import PlainPlanner, ShardReader
from mmcomponents.model import MultimodalModel

_STATE, _MODEL = "state_dict.", "model."


def model_weights(path: Path, allow_nonfinite: bool = False) -> dict[str, Lazy]:
    """Returns the weights of a checkpoint's model by the model's names; each is read lazily.

    Raises:
        CheckpointError: The checkpoint is missing or contains no model.
    """
    stored = saved_state(path, allow_nonfinite)
    found = {name.removeprefix(_MODEL): value for name, value in stored.items() if name.startswith(_MODEL)}
    if not found:
        raise CheckpointError(f"{path.as_posix()} contains no weights of a model")
    return found


def saved_state(path: Path, allow_nonfinite: bool = False) -> dict[str, Lazy]:
    """Returns the state of a checkpoint's task, independent of the number of ranks that wrote it.

    Args:
        path: File, or folder of shards.
        allow_nonfinite: Whether weights of the model may be NaN or infinite; otherwise reading one is an error.

    Raises:
        CheckpointError: The checkpoint is missing or invalid.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path.as_posix()!r}")
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"{path.as_posix()} contains weights of a model, not a checkpoint of a run: use its folder as MODEL"
        )
    if path.is_dir() and not (path / ".metadata").is_file():
        inside = min((file.as_posix() for file in path.glob("*.ckpt")), default=None)
        hint = f"; it contains {inside}" if inside else ""
        raise CheckpointError(f"the folder {path.as_posix()} is not a checkpoint of a run: it has no .metadata{hint}")
    try:
        verify(path)
        found = dict(_shards(path)) if path.is_dir() else _file(path)
    except pickle.UnpicklingError:  # torch's message has many lines, with advice on loading untrusted files
        raise CheckpointError(f"{path.as_posix()} is not a checkpoint of a run: it is not a file of weights") from None
    except (RuntimeError, CheckpointException, KeyError, EOFError, OSError) as error:
        raise CheckpointError(f"{path.as_posix()} is not a checkpoint of a run: {_first_line(error)}") from None
    if allow_nonfinite:
        return found
    return {n: _finite(path, n, value) if n.startswith(_MODEL) else value for n, value in found.items()}


def saved_contents(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds besides weights: settings, progress, and the state of callbacks.

    Args:
        path: File, or folder of shards.

    Raises:
        CheckpointError: They hold more than plain data.
    """
    file = path / CONTENTS if path.is_dir() else path
    if path.is_dir() and not file.exists():  # weights that no run has written
        return {}
    try:
        found: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{file.as_posix()} holds more than plain data, and could run code") from None
    return found


def frozen_weights(
    path: Path, model: MultimodalModel, others: Folders | None = None, *, trust_remote_code: bool = False
) -> dict[str, Lazy]:
    """Returns the frozen weights that a checkpoint leaves out, by the model's names.

    Args:
        path: File, or folder of shards.
        model: The model of the run, with its adapters.
        others: Folders to look in if those that the checkpoint names are missing.
        trust_remote_code: Whether the folders may name third-party classes.

    Raises:
        CheckpointError: The folder is missing, or has changed since the run.
    """
    try:
        found = FrozenWeights.find(saved_contents(path), others, trust_remote_code=trust_remote_code)
    except CheckpointError as error:
        raise CheckpointError(f"{path.as_posix()}: {error}") from None
    return {} if found is None else found.read(model)


def _finite(path: Path, name: str, value: Lazy) -> Lazy:
    """Returns a weight that is checked when it is read."""

    def load() -> Tensor:
        tensor = value.load()
        check_finite(path.as_posix(), name, tensor)
        return tensor

    return Lazy(value.meta, load)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _file(path: Path) -> dict[str, Lazy]:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path.as_posix()} is not a checkpoint of a run: it has no state_dict of tensors")
    return {name: lazy(value) for name, value in state.items()}


def _shards(path: Path) -> Iterator[tuple[str, Lazy]]:
    reader = ShardReader(path)
    for key, stored in reader.metadata.state_dict_metadata.items():
        if key.startswith(_STATE) and isinstance(stored, TensorStorageMetadata):
            meta = torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
            yield key.removeprefix(_STATE), Lazy(meta, partial(_read, reader, key, meta))


def _read(reader: ShardReader, key: str, meta: Tensor) -> Tensor:
    state = {key: torch.empty_like(meta, device="cpu")}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # intended by no_dist
            load_shards(state, storage_reader=reader, planner=PlainPlanner(), no_dist=True)
    except (RuntimeError, CheckpointException, OSError) as error:
        raise CheckpointError(f"{reader.path}: {key} cannot be read: {_first_line(error)}") from None
    return state[key]
