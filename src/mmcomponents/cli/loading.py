"""What `generate` answers with: a model with its tokenizer and renderer, from a folder or from a recipe."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from mmcomponents.cli.errors import UserError, one_line
from mmcomponents.cli.flags import Flags
from mmcomponents.cli.run import RecipeCLI
from mmcomponents.data.errors import DataError
from mmcomponents.registry import near


@dataclass
class Loaded:
    """All that answering takes.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer.
        renderer: Makes prompts and images ready for it.
    """

    model: Any
    tokenizer: Any
    renderer: Any


def from_folder(path: str, device: torch.device, dtype: torch.dtype | None) -> Loaded:
    """Reads a checkpoint folder: ours, a transformers `-hf` one or an official one.

    Raises:
        UserError: It cannot be read, or holds no whole model with its tokenizer.
    """
    from mmcomponents.checkpoints import read

    folder = Path(path)
    if not folder.is_dir():
        if folder.is_file():
            raise UserError(
                f"{path} is a file; a model is a folder, and a checkpoint of a run goes with its recipe: "
                "--config RECIPE --ckpt_path FILE"
            )
        beside = [entry.as_posix() for entry in folder.parent.glob("*")] if folder.parent.is_dir() else []
        raise UserError(f"there is no model folder {path!r}{near(folder.as_posix(), beside)}")
    try:
        checkpoint = read(path)
        tokenizer = checkpoint.tokenizer()
        model = checkpoint.load(device=device, dtype=dtype)
        if model.backbone is None or not len(model.heads):
            raise UserError(f"{path} holds no language model, so it cannot answer")
        return Loaded(model, tokenizer, checkpoint.renderer(tokenizer, model.tokens_per_tile))
    except (ValueError, OSError, DataError) as error:
        raise UserError(" ".join(str(error).split())) from error


def from_recipe(
    verb: str,
    flags: Flags,
    ckpt_path: str | None,
    classes: tuple[type[LightningModule], type[LightningDataModule]],
    device: torch.device,
    dtype: torch.dtype | None,
) -> Loaded:
    """Builds the model of a recipe and loads the weights of a checkpoint; its hyperparameters play no part.

    Raises:
        UserError: The recipe or the checkpoint is wrong.
    """
    cli = RecipeCLI(verb, flags, *classes)
    if not ckpt_path:
        raise UserError(f"{verb}: --ckpt_path is missing; without a checkpoint the weights would be random")
    task: Any = cli.model
    task.configure_model()
    _load_weights(task, Path(ckpt_path))
    task.eval()
    return Loaded(task.model.to(device=device, dtype=dtype), cli.datamodule.tokenizer, cli.datamodule.renderer)


def _load_weights(task: LightningModule, path: Path) -> None:
    if not path.exists():
        beside = [entry.as_posix() for entry in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"there is no checkpoint {path.as_posix()!r}{near(path.as_posix(), beside)}")
    state = _sharded_state(task, path) if path.is_dir() else _file_state(path)
    try:
        task.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"checkpoint {path.as_posix()} does not fit the recipe: {' '.join(str(error).split())}"
        ) from None


def _file_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (RuntimeError, pickle.UnpicklingError, KeyError, EOFError) as error:
        raise UserError(f"{path.as_posix()} is no checkpoint of Lightning: {one_line(str(error))[:200]}") from None
    return state


def _sharded_state(task: LightningModule, path: Path) -> dict[str, Any]:
    """Whole weights from a folder of shards, whatever the number of ranks that wrote it."""
    state = {"state_dict": dict(task.state_dict())}
    try:
        load_shards(state, checkpoint_id=path, no_dist=True)
    except (RuntimeError, CheckpointException, OSError) as error:
        raise UserError(f"{path.as_posix()} does not fit the recipe: {one_line(str(error))[:200]}") from None
    return state["state_dict"]
