"""`mmcomponents generate`: answers prompts with a trained recipe."""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image, UnidentifiedImageError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from mmcomponents.cli.errors import UserError, one_line
from mmcomponents.cli.flags import sort_flags
from mmcomponents.cli.run import RecipeCLI
from mmcomponents.registry import near


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"generate: {message}")


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    from mmcomponents.data import PackedDataModule
    from mmcomponents.training import MultimodalTask

    return answer(verb, argv, MultimodalTask, PackedDataModule)


def sampler() -> Callable[..., list[str]]:
    """What turns prompts and images into answers."""
    from mmcomponents.inference import generate

    function: Callable[..., list[str]] = generate
    return function


def answer(verb: str, argv: list[str], task_class: type[LightningModule], data_class: type[LightningDataModule]) -> int:
    """Builds the model of a recipe, loads a checkpoint's weights and prints the answers.

    Args:
        verb: Name of the verb, for messages.
        argv: The verb's own options, and `--config` and settings of the recipe.
        task_class: Takes `model:`.
        data_class: Takes `data:`; brings the tokenizer.
    """
    parser = _parser(verb)
    options, recipe_flags = parser.parse_known_args(argv)
    if options.help:
        parser.print_help()
        return 0
    if not options.prompt:
        raise UserError("generate: --prompt is missing")
    images = [_open(path) for path in options.image]
    flags = sort_flags(recipe_flags)
    for key, _ in flags.settings:
        if "." not in key and key != "seed_everything":
            raise UserError(f"{verb}: no option --{key}{near(key, vars(options))}")
    cli = RecipeCLI(verb, flags, task_class, data_class)
    if not options.ckpt_path:
        raise UserError("generate: --ckpt_path is missing; without a checkpoint the weights would be random")
    task: Any = cli.model
    task.configure_model()
    _load_weights(task, Path(options.ckpt_path))
    task.eval()
    try:
        answers = sampler()(
            task.model,
            cli.datamodule.tokenizer,
            options.prompt,
            [images] * len(options.prompt) if images else None,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            stop=None,
            seed=options.seed,
            renderer=cli.datamodule.renderer,
        )
    except ValueError as error:
        raise UserError(f"{verb}: {' '.join(str(error).split())}") from error
    if options.json:
        pairs = zip(options.prompt, answers, strict=True)
        sys.stdout.write(
            json.dumps([{"prompt": p, "answer": a} for p, a in pairs], ensure_ascii=False, indent=2) + "\n"
        )
    else:
        sys.stdout.write("".join(f"{text}\n" for text in answers))
    return 0


def _parser(verb: str) -> _Parser:
    parser = _Parser(
        prog=f"mmcomponents {verb}",
        description="Answer prompts about images. Flags of the recipe (--config, --model.…) are taken too.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this")
    parser.add_argument("--ckpt_path", help="checkpoint: a file, or a folder of shards")
    parser.add_argument("--image", nargs="+", action="extend", default=[], help="image files, all shown to each prompt")
    parser.add_argument("--prompt", nargs="+", action="extend", default=[], help="one question or several")
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    parser.add_argument("--top_p", type=float, default=1.0)
    parser.add_argument("--top_k", type=int, default=0, help="0: all")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print prompts and answers as JSON")
    return parser


def _open(path: str) -> Image.Image:
    if not Path(path).is_file():
        beside = [entry.as_posix() for entry in Path(path).parent.glob("*")] if Path(path).parent.is_dir() else []
        raise UserError(f"there is no image {path!r}{near(Path(path).as_posix(), beside)}")
    try:
        return Image.open(path).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"image {path!r} cannot be read: {error}") from None


def _load_weights(task: LightningModule, path: Path) -> None:
    """Loads the weights of a Lightning checkpoint; its hyperparameters play no part."""
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
