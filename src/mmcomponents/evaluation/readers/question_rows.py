"""Shared functions of the question readers: media loaders, column checks, prompts."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.template import check_roles
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import Clip
from mmcomponents.data.media.frames import FrameSampling, MiddleFrames
from mmcomponents.data.media.images import decode_image
from mmcomponents.data.media.video import read_video
from mmcomponents.synthesis.questions import Files
from mmcomponents.synthesis.rollout import Media

FRAMES = MiddleFrames(16)
"""Default sampling of the frames of a video."""

Shown = tuple[Files | None, Media | None]
"""Reader of a question's media files, and loader of the media; (None, None) without media."""


def shown(
    files: Files, images: int, cuts: Sequence[Clip | None] = (), frames: FrameSampling = FRAMES
) -> tuple[Files, Media]:
    """Returns a reader of files and its media loader. Questions with the same media share both.

    Args:
        files: Reads the files, images before videos.
        images: Number of images.
        cuts: Time range of each video in seconds; None: the complete video.
        frames: Sampling of the frames of a video.
    """
    return files, partial(_load, files, images, cuts, frames)


def _load(
    files: Files, images: int, cuts: Sequence[Clip | None], frames: FrameSampling
) -> tuple[list[Image.Image], list[list[Image.Image]]]:
    data = [content for _, content in files()]
    films = [read_video(film, frames, cut) for film, cut in zip(data[images:], cuts, strict=True)]
    return [decode_image(file) for file in data[:images]], films


def check_columns(path: Path, there: Collection[str], answers: bool, split: str, *others: tuple[str, ...]) -> None:
    """Checks that a question file has the required columns.

    Args:
        path: Path of the file.
        there: Its columns.
        answers: Whether answers are read.
        split: Split to read; "": all.
        others: Further required columns, each as a tuple of alternative names.

    Raises:
        DataError: A column is missing.
    """
    for names in [("question",), *[("answer",)] * answers, *[("split",)] * bool(split), *others]:
        if not any(name in there for name in names):
            meant = difflib.get_close_matches(names[0], list(there), n=1, cutoff=0.5)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            wanted = " or ".join(repr(name) for name in names)
            raise DataError(f"{path} has no column {wanted}{hint}; its columns are: {', '.join(there) or 'none'}")


def user_turn(question: str, hint: str, images: int) -> list[Message]:
    """Returns the conversation with a question.

    Args:
        question: Text of the question.
        hint: Text before the question; "": none.
        images: Number of images. If the text has no placeholders, they are placed before it.

    Raises:
        SampleError: The question is empty or not valid UTF-8.
    """
    if not question.strip():
        raise SampleError("the question is empty")
    text = f"{hint}\n{question}" if hint else question
    messages: list[Message] = [{"role": "user", "content": text if "<image>" in text else "<image>\n" * images + text}]
    check_roles(messages, "user")
    return messages


def references_of(answers: Sequence[str]) -> tuple[str, ...]:
    """Returns the non-empty answers.

    Raises:
        SampleError: All answers are empty.
    """
    references = tuple(answer for answer in answers if answer.strip())
    if not references:
        raise SampleError("the answer is empty")
    return references
