"""Weights of a run's checkpoint: a file of Lightning's, or a folder of shards."""

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
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from mmcomponents.checkpoints.rules import Lazy, lazy
from mmcomponents.cli.errors import UserError, one_line
from mmcomponents.registry import near

_STATE, _MODEL = "state_dict.", "model."


def load_weights(task: LightningModule, path: Path) -> None:
    """Gives a task the weights of a checkpoint; its hyperparameters play no part.

    Raises:
        UserError: There is no checkpoint, or it does not fit the recipe.
    """
    state = {name: value.load() for name, value in saved_state(path).items()}
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        told = _differences(task.state_dict(), state) or one_line(str(error))[:200]
        raise UserError(f"checkpoint {path.as_posix()} does not fit the recipe: {told}") from None


def _differences(wanted: dict[str, Any], given: dict[str, Tensor]) -> str:
    """How many weights differ and the first names, in place of a list of hundreds."""
    other = [name for name in wanted if name in given and wanted[name].shape != given[name].shape]
    kinds = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": other,
    }
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    )


def model_weights(path: Path) -> dict[str, Lazy]:
    """The weights of a checkpoint's model, by the model's own names; each is read when it is wanted.

    Raises:
        UserError: There is no checkpoint, or it holds no model.
    """
    found = {name.removeprefix(_MODEL): value for name, value in saved_state(path).items() if name.startswith(_MODEL)}
    if not found:
        raise UserError(f"{path.as_posix()} holds no weights of a model")
    return found


def saved_state(path: Path) -> dict[str, Lazy]:
    """The state of a checkpoint's task, whatever the number of ranks that wrote it.

    Raises:
        UserError: There is no checkpoint, or it is broken.
    """
    if not path.exists():
        beside = [entry.as_posix() for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint {path.as_posix()!r}{near(path.as_posix(), beside)}")
    if path.suffix == ".safetensors":
        raise UserError(f"{path.as_posix()} is no checkpoint of a run but weights of a model: give its folder as MODEL")
    if path.is_dir() and not (path / ".metadata").is_file():
        inside = min((file.as_posix() for file in path.glob("*.ckpt")), default=None)
        hint = f"; it holds {inside}" if inside else ""
        raise UserError(f"the folder {path.as_posix()} is no checkpoint of a run: it has no .metadata{hint}")
    try:
        return dict(_shards(path)) if path.is_dir() else _file(path)
    except pickle.UnpicklingError:  # torch's advice, of many lines, is not for this user
        raise UserError(f"{path.as_posix()} is no checkpoint of a run: it is no file of weights") from None
    except (RuntimeError, CheckpointException, KeyError, EOFError, OSError) as error:
        raise UserError(f"{path.as_posix()} is no checkpoint of a run: {one_line(str(error))[:200]}") from None


def _file(path: Path) -> dict[str, Lazy]:
    saved: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = saved.get("state_dict") if isinstance(saved, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path.as_posix()} is no checkpoint of a run: it has no state_dict of tensors")
    return {name: lazy(value) for name, value in state.items()}


def _shards(path: Path) -> Iterator[tuple[str, Lazy]]:
    for key, stored in FileSystemReader(path).read_metadata().state_dict_metadata.items():
        if key.startswith(_STATE) and isinstance(stored, TensorStorageMetadata):
            meta = torch.empty(stored.size, dtype=stored.properties.dtype, device="meta")
            yield key.removeprefix(_STATE), Lazy(meta, partial(_read, path, key, meta))


def _read(path: Path, key: str, meta: Tensor) -> Tensor:
    whole = {key: torch.empty_like(meta, device="cpu")}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # which is what no_dist asks for
            load_shards(whole, checkpoint_id=path, no_dist=True)
    except (RuntimeError, CheckpointException, OSError) as error:
        raise UserError(f"{path.as_posix()}: {key} cannot be read: {one_line(str(error))[:200]}") from None
    return whole[key]
