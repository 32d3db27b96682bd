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


def named_tokenizer(verb: str, what: str, path: str, writes: bool = False) -> Any:
    """Returns the tokenizer of a named model, whose weights are not loaded.

    Args:
        verb: Name of the command, for messages.
        what: What the model is, for messages.
        path: The model.
        writes: Whether the model has to write texts.

    Raises:
        UserError: There is no such model, or it has no language model.
    """
    from mmcomponents.checkpoints import read
    from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    none = f"{verb}: the {what} {path!r} contains no language model, so it cannot answer"
    if _is_folder(path):
        stored = read(path)
        if writes and not stored.spec.parts.get("backbone"):
            raise UserError(none)
        return stored.tokenizer()
    recipe, colon, checkpoint = path.rpartition(":")
    if not colon:
        raise UserError(f"{verb}: there is no {what} {path!r}: give a model folder, or RECIPE:CHECKPOINT")
    if not recipe or not os.path.exists(checkpoint):
        raise UserError(f"{verb}: the {what} {path!r} has no checkpoint {checkpoint!r}")
    cli: Any = RecipeCLI(verb, Flags(configs=[recipe]), MultimodalTask, PackedDataModule)
    if writes and (cli.model.factories.backbone is None or "lm" not in (cli.model.factories.heads or {})):
        raise UserError(none)
    return cli.datamodule.tokenizer


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
