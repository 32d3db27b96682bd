"""Weights of a run's checkpoint for the command, whose errors are one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import LightningModule
from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.runs import saved_weights
from mmcomponents.cli.user_error import UserError, near_file
from mmcomponents.training import MultimodalTask

if TYPE_CHECKING:
    from mmcomponents.model import MultimodalModel


def load_weights(task: LightningModule, path: Path, allow_nonfinite: bool = False) -> None:
    """Loads the weights of a checkpoint into a task; the checkpoint's hyperparameters are ignored.

    Raises:
        UserError: The checkpoint is missing, damaged, or does not match the recipe; or weights are NaN or infinite.
    """
    with _as_user_error(path):
        stored = saved_weights.saved_state(path, allow_nonfinite)
    if isinstance(task, MultimodalTask) and task.model is not None:
        stored |= {f"model.{name}": value for name, value in frozen_weights(path, task.model, task).items()}
    # Names and shapes are compared before any value is read.
    if reason := _differences(task.state_dict(), stored):
        raise UserError(f"checkpoint {path.as_posix()} does not match the recipe: {reason}")
    with _as_user_error(path):
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
        UserError: The checkpoint is missing or contains no model; also when a weight that is not finite is read.
    """

    def read(value: Lazy) -> Tensor:
        with _as_user_error(path):
            return value.load()

    with _as_user_error(path):
        found = saved_weights.model_weights(path, allow_nonfinite)
    return {name: replace(value, load=partial(read, value)) for name, value in found.items()}


def frozen_weights(path: Path, model: MultimodalModel, task: MultimodalTask) -> dict[str, Lazy]:
    """Returns the frozen weights that a checkpoint leaves out, by the model's names; each is read lazily.

    Args:
        path: File, or folder of shards.
        model: The model of the task, with its adapters.
        task: The task of the recipe, whose folders of initial weights may have them.

    Raises:
        UserError: The folder that has them is missing, or has changed since the run.
    """
    with _as_user_error(path):
        return saved_weights.frozen_weights(path, model, task.weights, trust_remote_code=task.trust_remote_code)


@contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise UserError(f"{error}{'' if path.exists() else near_file(path)}") from None
