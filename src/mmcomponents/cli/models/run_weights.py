"""Reading of the weights of a run's checkpoint: a file of Lightning's, or a folder of shards."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.checkpoints.runs import PlainPlanner, ShardReader, verify
from mmcomponents.cli.user_error import UserError, near_file, one_line

_STATE, _MODEL = "state_dict.", "model."


def load_weights(task: LightningModule, path: Path, allow_nonfinite: bool = False) -> None:
    """Loads the weights of a checkpoint into a task; the checkpoint's hyperparameters are ignored.

    Raises:
        UserError: The checkpoint is missing, damaged, or does not match the recipe; or weights are NaN or infinite.
    """
    stored = saved_state(path, allow_nonfinite)
    # Names and shapes are compared before any value is read.
    if reason := _differences(task.state_dict(), stored):
        raise UserError(f"checkpoint {path.as_posix()} does not match the recipe: {reason}")
    task.load_state_dict({name: value.load() for name, value in stored.items()})


def _differences(expected: dict[str, Tensor], given: dict[str, Lazy]) -> str:
    """Describes which weights differ, by their number and the first names."""
    other = [name for name in expected if name in given and expected[name].shape != given[name].meta.shape]
    kinds = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": other,
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )


def model_weights(path: Path, allow_nonfinite: bool = False) -> dict[str, Lazy]:
    """Returns the weights of a checkpoint's model by the model's names; each is read lazily.

    Raises:
        UserError: The checkpoint is missing or contains no model.
    """
    stored = saved_state(path, allow_nonfinite)
    found = {name.removeprefix(_MODEL): value for name, value in stored.items() if name.startswith(_MODEL)}
    if not found:
        raise UserError(f"{path.as_posix()} contains no weights of a model")
    return found


def saved_state(path: Path, allow_nonfinite: bool = False) -> dict[str, Lazy]:
    """Returns the state of a checkpoint's task, independent of the number of ranks that wrote it.

    Args:
        path: File, or folder of shards.
        allow_nonfinite: Whether weights of the model may be NaN or infinite; otherwise reading one is an error.

    Raises:
        UserError: The checkpoint is missing or invalid.
    """
    if not path.exists():
        raise UserError(f"there is no checkpoint {path.as_posix()!r}{near_file(path)}")
    if path.suffix == ".safetensors":
        raise UserError(
            f"{path.as_posix()} contains weights of a model, not a checkpoint of a run: use its folder as MODEL"
        )
    if path.is_dir() and not (path / ".metadata").is_file():
        inside = min((file.as_posix() for file in path.glob("*.ckpt")), default=None)
        hint = f"; it contains {inside}" if inside else ""
        raise UserError(f"the folder {path.as_posix()} is not a checkpoint of a run: it has no .metadata{hint}")
    try:
        verify(path)
        found = dict(_shards(path)) if path.is_dir() else _file(path)
    except CheckpointError as error:
        raise UserError(str(error)) from None
    except pickle.UnpicklingError:  # torch's message has many lines, with advice on loading untrusted files
        raise UserError(f"{path.as_posix()} is not a checkpoint of a run: it is not a file of weights") from None
    except (RuntimeError, CheckpointException, KeyError, EOFError, OSError) as error:
        raise UserError(f"{path.as_posix()} is not a checkpoint of a run: {one_line(str(error))[:200]}") from None
    if allow_nonfinite:
        return found
    return {n: _finite(path, n, value) if n.startswith(_MODEL) else value for n, value in found.items()}


def _finite(path: Path, name: str, value: Lazy) -> Lazy:
    """Returns a weight that is checked when it is read."""

    def load() -> Tensor:
        tensor = value.load()
        try:
            check_finite(path.as_posix(), name, tensor)
        except CheckpointError as error:
            raise UserError(str(error)) from None
        return tensor

    return Lazy(value.meta, load)


def _file(path: Path) -> dict[str, Lazy]:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path.as_posix()} is not a checkpoint of a run: it has no state_dict of tensors")
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
        raise UserError(f"{reader.path}: {key} cannot be read: {one_line(str(error))[:200]}") from None
    return state[key]
