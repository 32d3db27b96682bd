"""Answers of `mmcomponents generate`: loads the model, reads the media, prints texts, values or pictures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule, LightningModule

from mmcomponents.cli.models.media_inputs import Media, check_boxes, draw_boxes, draw_detected
from mmcomponents.cli.models.model_loading import Loaded, apply_prompt_options
from mmcomponents.cli.models.model_options import Arguments, check_model, load_model
from mmcomponents.cli.models.sampler_options import any_sampler
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.runs.interactive import Interactive, shown, write
from mmcomponents.cli.runs.picture_session import PictureSession, last_number, write_picture
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.generation import Answer

_MOST_FRAMES = 1024


def samplers() -> dict[str, Callable[..., Any]]:
    """Returns what generates answers: texts and others for a batch, as a stream, in a conversation, with changes."""
    from mmcomponents.generation import Conversation, PictureEditor, answer_prompts, generate, stream

    return {
        "batch": generate,
        "answers": answer_prompts,
        "stream": stream,
        "conversation": Conversation,
        "editor": PictureEditor,
    }


def answer(
    verb: str, arguments: Arguments, task_class: type[LightningModule], data_class: type[LightningDataModule]
) -> int:
    """Loads a model and prints the answers.

    Args:
        verb: Name of the verb, for messages.
        arguments: Options, optional model folder, and `--config` and settings of a recipe.
        task_class: Class with the arguments of `model:`.
        data_class: Class with the arguments of `data:`, which provides the tokenizer.
    """
    options, folder, recipe = arguments
    options.is_asked = bool(options.prompt or options.interactive)
    if not options.is_asked:
        if not options.image:
            raise UserError(f"{verb}: --prompt is missing")
        options.prompt = [""]  # the images alone; a sampler that answers with text needs a question
    if options.interactive and options.json:
        raise UserError(f"{verb}: --json and --interactive cannot be combined")
    if options.boxes:
        check_boxes(options.boxes, len(options.image), 0 if options.interactive else len(options.prompt))
    flags = sort_flags(recipe)
    if not folder and not flags.configs:
        _check_order(verb, [*options.prompt, *options.image, *options.video])
    check_model(verb, options, folder, flags)
    if not 1 <= options.frames <= _MOST_FRAMES:
        raise UserError(f"{verb}: --frames must be from 1 to {_MOST_FRAMES}, got {options.frames}")
    media = Media()
    for path in options.image:
        media.add_image(path)
    for path in options.video:
        media.add_video(path, options.frames)
    loaded = load_model(verb, options, folder, flags, (task_class, data_class), any_sampler(verb, options))
    with errors_in_one_line(verb):
        loaded = apply_prompt_options(
            loaded,
            max_tiles=options.max_tiles,
            share_tiles=options.share_tiles,
            system=options.system,
            delta=options.delta,
            frame_prompt=options.frame_prompt,
            control_text=options.control_text,
        )
        return _run(loaded, media, options)


def _check_order(verb: str, values: list[str]) -> None:
    """Raises an error if a model folder is among the values of an option."""
    folder = next((value for value in values if os.path.isfile(os.path.join(value, "config.json"))), None)
    if folder is not None:
        raise UserError(f"{verb}: MODEL comes first: mmcomponents {verb} {folder} --prompt …")


def _run(loaded: Loaded, media: Media, options: argparse.Namespace) -> int:
    from mmcomponents.generation.base import decodes_tokens

    settings = {
        "sampler": loaded.sampler,
        "seed": options.seed,
        "max_length": options.max_length,
        "renderer": loaded.renderer,
    }
    functions = samplers()
    prompts = [media.mark(prompt) for prompt in options.prompt]
    images = [media.images] * len(prompts) if media.images else None
    videos = [media.videos] * len(prompts) if media.videos else None
    if options.interactive and hasattr(loaded.sampler, "draw"):
        editor = functions["editor"](loaded.model, loaded.tokenizer, **settings)
        return PictureSession(editor, media, options.frames, Path(options.out)).run(options.prompt)
    if loaded.sampler.answers != "text":
        found = functions["answers"](loaded.model, loaded.tokenizer, prompts, images, videos=videos, **settings)
        if hasattr(loaded.sampler, "in_pixels"):
            _print_boxes(found, loaded.sampler, media, options)
        else:
            _print_answers(found, options)
        return 0
    settings["stop"] = options.stop or None
    if options.interactive:
        talk = functions["conversation"](loaded.model, loaded.tokenizer, **settings)
        return Interactive(talk, media, options.frames, loaded.model.vision is not None).run(options.prompt)
    if len(prompts) == 1 and not options.json and decodes_tokens(loaded.sampler):
        pieces = functions["stream"](
            loaded.model, loaded.tokenizer, prompts[0], media.images or None, videos=media.videos or None, **settings
        )
        answers = [write(pieces)]
    else:
        answers = functions["batch"](loaded.model, loaded.tokenizer, prompts, images, videos=videos, **settings)
        if options.json:
            _print_json(answers, options)
        else:
            sys.stdout.write("".join(f"{shown(text)}\n" for text in answers))
    if options.boxes:
        draw_boxes(answers[0], media.images[0], options.boxes)
    return 0


def _print_answers(answers: Sequence[Answer], options: argparse.Namespace) -> None:
    """Prints values as JSON; writes pictures into the folder of `--out`, beside those there, and prints their paths.

    A terminal that can show pictures shows them too. A text before a picture is printed, and written beside it.
    """
    values: list[Any] = []
    for number, answer in enumerate(answers, last_number(Path(options.out or ".")) + 1):
        if answer.picture is None:
            values.append(answer.shown())
        else:
            path = write_picture(answer, Path(options.out) / f"{number}.png", shows=not options.json)
            values.append({"picture": path, **notes} if (notes := answer.notes()) and options.json else path)
    if options.json:
        _print_json(values, options)
    else:
        lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
        sys.stdout.write("".join(f"{shown(line)}\n" for line in lines))


def _print_boxes(answers: Sequence[Answer], sampler: Any, media: Media, options: argparse.Namespace) -> None:
    """Prints the boxes of each image as JSON, and draws those of one image."""
    if len(media.images) != 1:
        raise UserError(f"boxes are found in one image, got {len(media.images)}")
    found = [sampler.in_pixels(answer.values, media.images[0].size) for answer in answers]
    rows = [[box.row() for box in boxes] for boxes in found]
    if options.json:
        _print_json(rows, options)
    else:
        sys.stdout.write("".join(f"{shown(json.dumps(row, ensure_ascii=False))}\n" for row in rows))
    if options.boxes:
        draw_detected(found[0], media.images[0], options.boxes)


def _print_json(answers: Sequence[Any], options: argparse.Namespace) -> None:
    pairs = [{"prompt": p, "answer": a} for p, a in zip(options.prompt, answers, strict=True)]
    sys.stdout.write(shown(json.dumps(pairs, ensure_ascii=False, indent=2)) + "\n")
