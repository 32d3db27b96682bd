"""`mmcomponents generate`: answers prompts with a checkpoint folder or a trained recipe."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.flags import sort_flags
from mmcomponents.cli.interactive import Interactive, write
from mmcomponents.cli.loading import Loaded, from_folder, from_recipe, limit_tiles
from mmcomponents.cli.media import Media, check_boxes, draw_boxes
from mmcomponents.registry import near

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_MOST_FRAMES = 1024


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"generate: {message}")


def main(verb: str, argv: list[str]) -> int:
    """Entry of the verb."""
    from mmcomponents.data import PackedDataModule
    from mmcomponents.training import MultimodalTask

    return answer(verb, argv, MultimodalTask, PackedDataModule)


def samplers() -> dict[str, Callable[..., Any]]:
    """What turns prompts and images into answers: all at once, piece by piece, in turns."""
    from mmcomponents.inference import Conversation, generate, stream

    return {"batch": generate, "stream": stream, "conversation": Conversation}


def answer(verb: str, argv: list[str], task_class: type[LightningModule], data_class: type[LightningDataModule]) -> int:
    """Loads a model and prints the answers.

    Args:
        verb: Name of the verb, for messages.
        argv: A model folder or none, the verb's own options, and `--config` and settings of a recipe.
        task_class: Takes `model:`.
        data_class: Takes `data:`; brings the tokenizer.
    """
    parser = _parser(verb)
    # The folder comes first: further on, a word may be the value of a recipe's setting.
    folder, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    options, recipe_flags = parser.parse_known_args(rest)
    if options.help:
        parser.print_help()
        return 0
    if not options.prompt and not options.interactive:
        raise UserError(f"{verb}: --prompt is missing")
    if options.interactive and options.json:
        raise UserError(f"{verb}: --json and --interactive do not go together")
    if options.boxes:
        check_boxes(options.boxes, len(options.image), 0 if options.interactive else len(options.prompt))
    flags = sort_flags(recipe_flags)
    for key, _ in flags.settings:
        if "." not in key and key != "seed_everything":
            raise UserError(f"{verb}: no option --{key}{near(key, vars(options))}")
    if not folder and not flags.configs and not flags.requests:
        raise UserError(_without_model(verb, [*options.prompt, *options.image, *options.video]))
    if folder and (flags.configs or flags.settings or flags.requests or options.ckpt_path):
        raise UserError(f"{verb}: a model folder goes without a recipe, its settings and --ckpt_path")
    if not 1 <= options.frames <= _MOST_FRAMES:
        raise UserError(f"{verb}: --frames must be from 1 to {_MOST_FRAMES}, got {options.frames}")
    media = Media()
    for path in options.image:
        media.add_image(path)
    for path in options.video:
        media.add_video(path, options.frames)
    device, dtype = _device(options.device), DTYPES.get(options.dtype)
    if folder:
        loaded = from_folder(folder, device, dtype, options.allow_pickle, options.trust_remote_code)
    else:
        loaded = from_recipe(verb, flags, options.ckpt_path, (task_class, data_class), device, dtype)
    try:
        return _run(_adjusted(loaded, options), media, options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{verb}: {' '.join(str(error).split())}") from error


def _without_model(verb: str, values: list[str]) -> str:
    """What to do where neither a folder nor a recipe is given; the folder may stand behind an option."""
    folder = next((value for value in values if os.path.isfile(os.path.join(value, "config.json"))), None)
    if folder is not None:
        return f"{verb}: MODEL comes first: mmcomponents {verb} {folder} --prompt …"
    return f"{verb}: needs MODEL, a folder, or --config RECIPE --ckpt_path FILE"


def _run(loaded: Loaded, media: Media, options: argparse.Namespace) -> int:
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "stop": options.stop or None,
        "seed": options.seed,
        "max_length": options.max_length,
        "renderer": loaded.renderer,
    }
    ways = samplers()
    if options.interactive:
        talk = ways["conversation"](loaded.model, loaded.tokenizer, **settings)
        return Interactive(talk, media, options.frames).run(options.prompt)
    prompts = [media.mark(prompt) for prompt in options.prompt]
    if len(prompts) == 1 and not options.json:
        pieces = ways["stream"](
            loaded.model, loaded.tokenizer, prompts[0], media.images or None, videos=media.videos or None, **settings
        )
        answers = [write(pieces)]
    else:
        images = [media.images] * len(prompts) if media.images else None
        videos = [media.videos] * len(prompts) if media.videos else None
        answers = ways["batch"](loaded.model, loaded.tokenizer, prompts, images, videos=videos, **settings)
        if options.json:
            pairs = zip(options.prompt, answers, strict=True)
            table = [{"prompt": p, "answer": a} for p, a in pairs]
            sys.stdout.write(json.dumps(table, ensure_ascii=False, indent=2) + "\n")
        else:
            sys.stdout.write("".join(f"{text}\n" for text in answers))
    if options.boxes:
        draw_boxes(answers[0], media.images[0], options.boxes)
    return 0


def _adjusted(loaded: Loaded, options: argparse.Namespace) -> Loaded:
    """The model and its renderer with the settings that the command line changes."""
    renderer = limit_tiles(loaded, options.max_tiles).renderer
    if options.system is not None:
        renderer = replace(renderer, system=options.system or None)
    if options.frame_prompt is not None:
        renderer = replace(renderer, frame_template=options.frame_prompt)
    if options.control_text != "encode":
        renderer = replace(renderer, control_text=options.control_text)
    if options.delta is not None:
        from mmcomponents.inference import set_delta

        set_delta(loaded.model, options.delta)
    return replace(loaded, renderer=renderer)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "meta":
        raise UserError("--device 'meta' cannot be used: nothing is computed there")
    return device


def _fraction(text: str) -> float:
    """A number, also one like 1/4."""
    over, slash, under = text.partition("/")
    try:
        return float(over) / float(under) if slash else float(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _parser(verb: str) -> _Parser:
    parser = _Parser(
        prog=f"mmcomponents {verb}",
        usage="%(prog)s MODEL [options]\n       %(prog)s --config RECIPE --ckpt_path FILE [options]",
        description="Answer prompts about images and videos. MODEL is a folder: one of ours, a transformers -hf one, "
        "or an official InternVL one. With a recipe, its flags (--model.…, --data.…) are taken too.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this")
    add("--ckpt_path", help="checkpoint of a recipe's run: a file, or a folder of shards")
    add("--prompt", nargs="+", action="extend", default=[], help="one question or several, each answered alone")
    add("--image", nargs="+", action="extend", default=[], help="image files, all shown to each prompt")
    add("--video", nargs="+", action="extend", default=[], help="video files, all shown to each prompt")
    add("--frames", type=int, default=16, help="frames of each video (16)")
    add("--system", help="system text instead of the model's own; '': none")
    add(
        "--interactive", action="store_true", help="a conversation: lines from the terminal or a pipe; /help lists more"
    )
    add("--max_new_tokens", type=int, default=64, help="tokens of an answer at most (64)")
    add("--max_length", type=int, help="tokens of a prompt with its answer at most; default: what the positions bear")
    add("--temperature", type=float, default=0.0, help="0: the likeliest token each time")
    add("--top_p", type=float, default=1.0)
    add("--top_k", type=int, default=0, help="0: all")
    add("--seed", type=int, help="of the draws")
    add("--stop", nargs="+", action="extend", default=[], help="texts at which an answer ends")
    add("--max_tiles", type=int, help="tiles of all images of a prompt at most")
    add("--delta", type=_fraction, help="V2PE: step of a visual token, such as 1/4")
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", choices=list(DTYPES), help="of the weights; default: as they are stored")
    add(
        "--control_text",
        choices=("encode", "refuse"),
        default="encode",
        help="a prompt that spells out a token of the template, such as <|im_end|>: it stays text, or is refused",
    )
    add("--frame_prompt", metavar="TEXT", help="text of a video's frame, such as 'Frame-{number}: <image>'")
    add("--allow_pickle", action="store_true", help="read a folder's weights that are pickles; only if you trust them")
    add(
        "--trust_remote_code",
        action="store_true",
        help="import parts of other packages that a folder of ours names by dotted path; only if you trust it",
    )
    add("--json", action="store_true", help="print prompts and answers as JSON")
    add("--boxes", metavar="OUT.png", help="draw the boxes that the answer names on the image")
    return parser
