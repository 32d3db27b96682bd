"""What `generate` answers with: a model with its tokenizer and renderer, from a folder or from a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.flags import Flags
from mmcomponents.cli.run import RecipeCLI
from mmcomponents.cli.weights import load_weights
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


def from_folder(
    path: str,
    device: torch.device,
    dtype: torch.dtype | None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Loaded:
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
        checkpoint = read(path, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
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
    task.weights = None  # those that the run started from are not those that it has now
    task.configure_model()
    load_weights(task, Path(ckpt_path))
    task.eval()
    return Loaded(task.model.to(device=device, dtype=dtype), cli.datamodule.tokenizer, cli.datamodule.renderer)


def limit_tiles(loaded: Loaded, max_tiles: int | None) -> Loaded:
    """The same with another limit of tiles for the images of a question; None: its own.

    Raises:
        UserError: It is less than one.
    """
    if max_tiles is None:
        return loaded
    if max_tiles < 1:
        raise UserError(f"--max_tiles must be at least 1, got {max_tiles}")
    tiling = loaded.renderer.tiling
    tiling = replace(tiling, min_tiles=min(tiling.min_tiles, max_tiles), max_tiles=max_tiles)
    return replace(loaded, renderer=replace(loaded.renderer, tiling=tiling))
