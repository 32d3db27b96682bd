"""Loading of a model with its tokenizer and renderer, from a folder or from a recipe and a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from mmcomponents.cli.models.run_weights import load_weights
from mmcomponents.cli.models.sampler_options import Choose, check_folder
from mmcomponents.cli.recipes.differences import report_differences
from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError, near_file
from mmcomponents.data.storage.hub import local_folder


@dataclass
class Loaded:
    """A model that can generate answers.

    Attributes:
        model: Model in evaluation mode, on its device.
        tokenizer: Tokenizer of the model.
        renderer: Converts prompts and images to inputs of the model.
        sampler: Sampler that the command chose; None if it chose none.
    """

    model: Any
    tokenizer: Any
    renderer: Any
    sampler: Any = None


def from_folder(
    path: str,
    device: torch.device,
    dtype: torch.dtype | None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    allow_nonfinite: bool = False,
    choose: Choose | None = None,
) -> Loaded:
    """Reads a checkpoint folder in this library's, the transformers (`-hf`) or the official format.

    The sampler is chosen before the weights are loaded, with the factory of the folder's sampler.

    Raises:
        UserError: The folder cannot be read, or does not contain a complete model with its tokenizer.
    """
    from mmcomponents.checkpoints import read

    with _errors():
        folder = local_folder(path)
    if not folder.is_dir():
        if folder.is_file():
            raise UserError(
                f"{path} is a file; a model is a folder, and a checkpoint of a run needs its recipe: "
                "--config RECIPE --ckpt_path FILE"
            )
        raise UserError(f"there is no model folder {path!r}{near_file(folder)}")
    with _errors():
        checkpoint = read(folder, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        tokenizer, make = checkpoint.tokenizer(), checkpoint.make_sampler(trust_remote_code)
    sampler = None if choose is None else choose(make)
    with _errors():
        model = checkpoint.load(device=device, dtype=dtype, allow_nonfinite=allow_nonfinite)
        if not len(model.heads) or (make is None and model.backbone is None):
            raise UserError(f"{path} contains no language model, so it cannot answer")
        if sampler is not None and make is None:
            check_folder(path, sampler, model)
        if sampler is not None:
            sampler.check(model)
        return Loaded(model, tokenizer, checkpoint.renderer(tokenizer, model.tokens_per_tile), sampler)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(" ".join(str(error).split())) from error


def from_recipe(
    verb: str,
    flags: Flags,
    ckpt_path: str | None,
    classes: tuple[type[LightningModule], type[LightningDataModule]],
    device: torch.device,
    dtype: torch.dtype | None,
    allow_nonfinite: bool = False,
    choose: Choose | None = None,
) -> Loaded:
    """Builds the model of a recipe and loads the weights of a checkpoint; its hyperparameters are ignored.

    The sampler is chosen before the model is built, with the factory of the recipe's sampler.

    Raises:
        UserError: The recipe or the checkpoint is invalid.
    """
    cli = RecipeCLI(verb, flags, *classes)
    if not ckpt_path:
        raise UserError(f"{verb}: --ckpt_path is missing; without a checkpoint the weights would be random")
    tokenizer, renderer = data_attributes(verb, cli.datamodule, "tokenizer", "renderer")
    report_differences(Path(ckpt_path), cli.config_dump["model"], training=False)
    task: Any = cli.model
    sampler = None if choose is None else choose(getattr(task, "make_sampler", None))
    # Of the initial weights of the run, only frozen ones that the checkpoint leaves out are needed.
    weights, task.weights = getattr(task, "weights", None), None
    task.configure_model()
    task.weights = weights
    load_weights(task, Path(ckpt_path), allow_nonfinite)
    task.eval()
    return Loaded(task.model.to(device=device, dtype=dtype), tokenizer, renderer.for_prompts(), sampler)


def data_attributes(verb: str, datamodule: LightningDataModule, *names: str) -> list[Any]:
    """Returns attributes of a recipe's data that a verb needs.

    Args:
        verb: Name of the verb, for messages.
        datamodule: The recipe's datamodule.
        names: Names of the attributes.

    Raises:
        UserError: The datamodule has no such attribute, or it cannot be read.
    """
    found = []
    for name in names:
        if name not in dir(datamodule):
            raise UserError(f"{verb}: the data class {type(datamodule).__name__} has no {name}, which {verb} needs")
        try:
            found.append(getattr(datamodule, name))
        except (ValueError, OSError) as error:
            raise UserError(f"{verb}: {' '.join(str(error).split())}") from error
    return found


def limit_tiles(loaded: Loaded, max_tiles: int | None, share: bool = False) -> Loaded:
    """Returns the model with another limit on the tiles of a question's images; None: unchanged.

    Args:
        loaded: The model.
        max_tiles: Maximum number of tiles.
        share: Whether the images of a question share them.

    Raises:
        UserError: The limit is less than one.
    """
    if max_tiles is None and not share:
        return loaded
    tiling = replace(loaded.renderer.tiling, share=share)
    max_tiles = tiling.max_tiles if max_tiles is None else max_tiles
    if max_tiles < 1:
        raise UserError(f"--max_tiles must be at least 1, got {max_tiles}")
    tiling = replace(tiling, min_tiles=min(tiling.min_tiles, max_tiles), max_tiles=max_tiles)
    return replace(loaded, renderer=replace(loaded.renderer, tiling=tiling))


def apply_prompt_options(
    loaded: Loaded,
    *,
    max_tiles: int | None,
    share_tiles: bool,
    system: str | None,
    delta: float | None,
    frame_prompt: str | None = None,
    control_text: str = "encode",
) -> Loaded:
    """Returns the model with the prompt options of a command; None: unchanged. `delta` is set in the model in place.

    Raises:
        UserError: `max_tiles` is less than one.
    """
    renderer = limit_tiles(loaded, max_tiles, share_tiles).renderer
    if system is not None:
        renderer = replace(renderer, system=system or None)
    if frame_prompt is not None:
        renderer = replace(renderer, frame_template=frame_prompt)
    if control_text != "encode":
        renderer = replace(renderer, control_text=control_text)
    if delta is not None:
        from mmcomponents.generation.inputs import set_delta

        set_delta(loaded.model, delta)
    return replace(loaded, renderer=renderer)
