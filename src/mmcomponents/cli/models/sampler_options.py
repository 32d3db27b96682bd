"""Choice of the sampler of a command: that of the recipe, or `Autoregressive` with the command's options."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.generation import Sampler

Make = Callable[..., "Sampler"] | None
"""Factory of the sampler of a recipe or a folder, which takes arguments that replace its own; None without one."""

Choose = Callable[[Make], "Sampler"]
"""Called before a model is loaded."""

SETTINGS = ("max_new_tokens", "temperature", "top_p", "top_k")
"""Options that are arguments of `Autoregressive`, and of other samplers that have them."""

_NEW_TOKENS = 64
"""Maximum number of new tokens without a recipe."""


def any_sampler(verb: str, options: argparse.Namespace) -> Choose:
    """Returns a function that chooses the sampler of a command that shows answers of any kind.

    Args:
        verb: Name of the command, for messages.
        options: `SETTINGS`, of which None stands for the recipe's value, and the options that not every sampler allows:
            `out`, `interactive`, `stop` and `boxes`. `is_asked` is False for images without a prompt.
    """

    def choose(make: Make) -> Sampler:
        from mmcomponents.generation.base import check_declared

        with errors_in_one_line(verb):
            sampler = _made(verb, options, make)
            check_declared(sampler)
            _check_options(verb, options, sampler)
            if options.out:
                _make_folder(verb, Path(options.out))
            return sampler

    return choose


def rollout_sampler(verb: str) -> Choose:
    """Returns a function that refuses recipes whose sampler is not the one that rollouts decode with.

    Args:
        verb: Name of the command, for messages.
    """

    def choose(make: Make) -> Sampler:
        from mmcomponents.generation import Autoregressive

        sampler = Autoregressive() if make is None else make()
        if type(sampler) is not Autoregressive:
            raise UserError(
                f"{verb} decodes texts with Autoregressive and its own options, and the recipe's sampler"
                f" {type(sampler).__name__} answers with {sampler.answers}; if the model writes texts too, give"
                " the recipe and its checkpoint, and add --model.sampler Autoregressive"
            )
        return sampler

    return choose


def check_folder(folder: str, sampler: Sampler, model: Any) -> None:
    """Checks that the model of a folder that names no sampler has the head that the command's sampler reads.

    Args:
        folder: Path of the folder, for the message.
        sampler: Sampler of the command.
        model: Model of the folder.

    Raises:
        UserError: It has not.
    """
    heads, name = getattr(model, "heads", None), getattr(sampler, "head", None)
    if heads is not None and name is not None and name not in heads:
        raise UserError(
            f"{folder} has no sampler, and {type(sampler).__name__} reads the head {name!r}, while the model"
            f" has {', '.join(heads) or 'none'}: --config RECIPE --ckpt_path FILE uses the sampler of the recipe"
        )


def _made(verb: str, options: argparse.Namespace, make: Make) -> Sampler:
    from mmcomponents.generation import Autoregressive

    given = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    if make is None:
        return Autoregressive(**{"max_new_tokens": _NEW_TOKENS} | given)
    sampler = make()
    known = inspect.signature(type(sampler)).parameters
    for name in given:
        if name not in known:
            raise UserError(f"{verb}: the recipe's sampler {type(sampler).__name__} has no argument for --{name}")
    return make(**given) if given else sampler


def _check_options(verb: str, options: argparse.Namespace, sampler: Sampler) -> None:
    from mmcomponents.generation.base import check_tokens

    name, makes = type(sampler).__name__, sampler.answers
    if makes == "picture" and not options.out:
        raise UserError(f"{verb}: the sampler {name} answers with pictures: add --out FOLDER for their files")
    if makes == "picture" and not all(prompt.strip() for prompt in getattr(options, "prompt", ())):
        raise UserError(f"{verb}: --prompt is empty, and the sampler {name} makes pictures of prompts")
    if makes != "picture" and options.out:
        raise UserError(f"{verb}: --out is a folder for pictures, and the sampler {name} answers with {makes}")
    if options.boxes and makes != "text" and not hasattr(sampler, "in_pixels"):
        raise UserError(f"{verb}: --boxes needs an answer of text, and the sampler {name} answers with {makes}")
    if makes == "text" and not getattr(options, "is_asked", True):
        raise UserError(f"{verb}: --prompt is missing")
    for option in ("interactive", "stop"):
        if getattr(options, option) and not (option == "interactive" and hasattr(sampler, "draw")):
            check_tokens(sampler, f"--{option}")


def _make_folder(verb: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{verb}: --out {folder.as_posix()!r} cannot be created: {error.strerror}") from error
