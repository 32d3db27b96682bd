"""Options of the commands that generate answers with a model, and the objects built from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.cli.recipes.flags import Flags, check_options
from mmcomponents.cli.terminal.parser import Parser, add_trust_options
from mmcomponents.cli.user_error import UserError

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import LightningDataModule, LightningModule

    from mmcomponents.cli.models.model_loading import Loaded
    from mmcomponents.cli.models.sampler_options import Choose
    from mmcomponents.synthesis.rollout import Sampling

Arguments = tuple[argparse.Namespace, str | None, list[str]]
"""Options, model folder and flags of a recipe."""

DTYPES = ("float32", "bfloat16", "float16")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for loading a model."""
    add = parser.add_argument
    add("--ckpt_path", help="checkpoint of a run: a file, or a folder of shards")
    add("--device", help="default: cuda if available, else cpu")
    add("--dtype", choices=DTYPES, help="dtype of the weights; default: as stored")
    add_trust_options(parser)


def add_draw_options(parser: argparse.ArgumentParser, samples: int, temperature: float, top_p: float) -> None:
    """Adds the options for sampling several answers per question.

    Args:
        parser: Parser of a command.
        samples: Default of `--samples`.
        temperature: Default of `--temperature`.
        top_p: Default of `--top_p`.
    """
    add = parser.add_argument
    add("--limit", type=int, help="maximum number of questions")
    add("--instruction", default="", metavar="TEXT", help="text after each question, such as the format of the "
        "answer; it is part of the output and of the critics' input")  # fmt: skip
    add("--samples", type=int, default=samples, help=f"number of answers per question ({samples})")
    add("--temperature", type=float, default=temperature, help=f"sampling temperature ({temperature:g})")
    add("--top_p", type=float, default=top_p, help=f"sample from the most likely tokens with this total probability "
        f"({top_p:g})")  # fmt: skip
    add("--top_k", type=int, default=0, help="sample from this many most likely tokens; 0: all (0)")
    add("--max_new_tokens", type=int, default=256, help="maximum number of tokens of an answer (256)")
    add("--seed", type=int, default=0, help="seed of the sampling (0)")
    add("--max_refused", type=float, default=0.01, help="largest share of questions that may be skipped (0.01)")
    add("--max_tokens", type=int, default=16384, help="maximum number of tokens of a batch, each prompt with one "
        "answer (16384)")  # fmt: skip
    add("--max_segments", type=int, default=256, help="maximum number of answers of a batch (256)")
    add("--max_cache", type=int, default=262_144, help="maximum number of cached tokens of a batch, each "
        "answer with its prompt (262144)")  # fmt: skip


def make_sampling(options: argparse.Namespace, greedy_first: bool = False) -> Sampling:
    """Returns the sampling settings from `--stop` and the options of `add_draw_options`.

    Args:
        options: The parsed options.
        greedy_first: Whether the first answer is greedy.
    """
    from mmcomponents.synthesis.rollout import Sampling

    return Sampling(
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        stop=tuple(options.stop),
        seed=options.seed,
        greedy_first=greedy_first,
    )


def parse_arguments(parser: Parser, argv: list[str]) -> Arguments | None:
    """Parses `[MODEL] [options] [flags of a recipe]`; the folder is first, as a later word may be a flag's value.

    Args:
        parser: Parser of `recipe_verb_parser`.
        argv: Arguments of the command.

    Returns:
        (options, model folder, flags of a recipe), or None after printing the help for `--help`.
    """
    folder, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options, recipe = parser.parse_known_args(rest)
    if options.help:
        parser.print_help()
        return None
    return options, folder, recipe


def check_model(verb: str, options: argparse.Namespace, folder: str | None, flags: Flags, name: str = "MODEL") -> None:
    """Checks that a command selects one model, and that its settings are keys of a recipe.

    Args:
        verb: Name of the command, for messages.
        options: Options of the command, including those of `add_model_options`.
        folder: Model folder, or None.
        flags: Flags of a recipe.
        name: Name of the folder's argument in the usage.

    Raises:
        UserError: No model or two models are given, or a setting is not a key of a recipe.
    """
    check_options(verb, flags, vars(options))
    if not folder and not flags.configs and not flags.requests:
        raise UserError(f"{verb}: needs {name}, a folder, or --config RECIPE --ckpt_path FILE")
    if folder and (flags.configs or flags.settings or flags.requests or options.ckpt_path):
        raise UserError(f"{verb}: the folder {name} cannot be combined with a recipe, its settings or --ckpt_path")


def device_and_dtype(options: argparse.Namespace) -> tuple[torch.device, torch.dtype | None]:
    """Returns the device and the dtype (None: that of the stored weights) of the options.

    Raises:
        UserError: The device cannot be used.
    """
    import torch

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    if options.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu"), dtype
    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {options.device!r} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "meta":
        raise UserError("--device 'meta' cannot be used: it computes nothing")
    return device, dtype


def load_model(
    verb: str,
    options: argparse.Namespace,
    folder: str | None,
    flags: Flags,
    classes: tuple[type[LightningModule], type[LightningDataModule]] | None = None,
    choose: Choose | None = None,
) -> Loaded:
    """Loads the model of a command, in evaluation mode.

    Args:
        verb: Name of the command, for messages.
        options: The options of `add_model_options`.
        folder: Model folder; None: the model of a recipe.
        flags: Flags of the recipe.
        classes: Classes for `model:` and `data:` of the recipe; None: `MultimodalTask` and `PackedDataModule`.
        choose: Chooses the sampler, before the model is loaded; None: the command needs none.

    Raises:
        UserError: The model cannot be loaded.
    """
    from mmcomponents.cli.models.model_loading import from_folder, from_recipe

    device, dtype = device_and_dtype(options)
    if folder is not None:
        return from_folder(
            folder, device, dtype, options.allow_pickle, options.trust_remote_code, options.allow_nonfinite, choose
        )
    known: Any = classes
    if known is None:
        from mmcomponents.data.datamodule import PackedDataModule
        from mmcomponents.training import MultimodalTask

        known = (MultimodalTask, PackedDataModule)
    return from_recipe(verb, flags, options.ckpt_path, known, device, dtype, options.allow_nonfinite, choose)


def default_folder(folder: str | None, flags: Flags, ckpt_path: str | None) -> Path:
    """Returns the folder of the output about a model: it is named after the model's folder, or after its run.

    Args:
        folder: Folder of the model.
        flags: Recipes, if there is no folder.
        ckpt_path: Checkpoint of a run; one other than the last is part of the name.
    """
    if folder is not None or ckpt_path is None:
        name = Path(folder or flags.configs[-1]).resolve().name
    else:
        path = Path(ckpt_path).resolve()
        run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        name = run.name if path.stem == "last" else f"{run.name}-{path.stem}"
    return Path("runs", "evaluate", name or "model")
