"""A model that an option names beside that of the command: a folder, a model of the hub, or RECIPE:CHECKPOINT."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from mmcomponents.cli.models.model_options import load_model
from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.cli.models.sampler_options import Choose


def named_tokenizer(verb: str, what: str, path: str) -> Any:
    """Returns the tokenizer of a named model, whose weights are not loaded.

    Args:
        verb: Name of the command, for messages.
        what: What the model is, for messages.
        path: The model.

    Raises:
        UserError: There is no such model.
    """
    from mmcomponents.checkpoints import read
    from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    if _is_folder(path):
        return read(path).tokenizer()
    recipe, colon, checkpoint = path.rpartition(":")
    if not colon:
        raise UserError(f"there is no {what} {path!r}: give a model folder, or RECIPE:CHECKPOINT")
    if not recipe or not os.path.exists(checkpoint):
        raise UserError(f"the {what} {path!r} has no checkpoint {checkpoint!r}")
    return RecipeCLI(verb, Flags(configs=[recipe]), MultimodalTask, PackedDataModule).datamodule.tokenizer


def load_named(verb: str, options: argparse.Namespace, path: str, choose: Choose | None = None) -> Loaded:
    """Loads a named model, see `load_model`.

    Args:
        verb: Name of the command, for messages.
        options: The options of `add_model_options`, without `--ckpt_path`.
        path: The model.
        choose: Chooses the sampler; None: none is needed.

    Raises:
        UserError: The model cannot be loaded.
    """
    if _is_folder(path):
        return load_model(verb, options, path, Flags(), choose=choose)
    recipe, _, checkpoint = path.rpartition(":")
    options = argparse.Namespace(**vars(options) | {"ckpt_path": checkpoint})
    return load_model(verb, options, None, Flags(configs=[recipe]), choose=choose)


def _is_folder(path: str) -> bool:
    from mmcomponents.data.storage.hub import is_hub_name

    return os.path.isdir(path) or is_hub_name(path)
