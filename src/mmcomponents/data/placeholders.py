r"""Places of images and videos in a conversation: `<image>` and `<video>` in the texts of the user.

A video becomes a list of its frames, each an `<image>` of its own with a number before it. Names for frames differ
between programs that speak to InternVL: `Frame-{number}: <image>` is what the fine-tuning code released with it writes
(arXiv 2504.10479); others are `Frame{number}: <image>` and `Frame{number}:<image>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mmcomponents.data.control_text import ConversationError

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
FRAME_TEMPLATE = "Frame-{number}: <image>"

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""

T = TypeVar("T")


def _users(messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """Number and text of each turn of the user; what is no text is found when the conversation is rendered."""
    for number, message in enumerate(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            text = message.get("content")
            if isinstance(text, str):
                yield number, text


def count_placeholders(messages: Sequence[Message], placeholder: str = IMAGE_PLACEHOLDER) -> int:
    """Number of `<image>`, or of another placeholder, in the turns of the user."""
    return sum(text.count(placeholder) for _, text in _users(messages))


def _place(messages: Sequence[Message], count: int, placeholder: str) -> list[Message]:
    """Puts a placeholder in front of the first user turn where it stands for one thing and is not there."""
    placed = list(messages)
    first = next(_users(messages), None)
    if count == 1 and first is not None and not count_placeholders(messages, placeholder):
        number, text = first
        placed[number] = {**placed[number], "content": f"{placeholder}\n{text}"}
    return placed


def place_image(messages: Sequence[Message], images: int) -> list[Message]:
    r"""Puts `<image>\n` in front of the first user turn where there is one image and no placeholder.

    Any other conversation is returned as it is; whether its numbers agree is checked when it is rendered.

    Args:
        messages: The conversation.
        images: Number of images that come with it.
    """
    return _place(messages, images, IMAGE_PLACEHOLDER)


def frame_prompt(count: int, template: str = FRAME_TEMPLATE, separator: str = "\n") -> str:
    """Returns the text that stands for a video: one `<image>` for each frame.

    Args:
        count: Number of frames.
        template: Text of one frame, with `<image>` once; `{number}` becomes its number, from 1 on.
        separator: Between two frames.

    Raises:
        ValueError: There is no frame, or the template has not one `<image>`.
    """
    if count < 1:
        raise ValueError(f"a video of {count} frames has no prompt")
    if (template + separator).count(IMAGE_PLACEHOLDER) != 1 or IMAGE_PLACEHOLDER not in template:
        raise ValueError(f"the template of a frame must have {IMAGE_PLACEHOLDER} once, got {template!r}, {separator!r}")
    return separator.join(template.replace("{number}", str(number)) for number in range(1, count + 1))


def place_video(
    messages: Sequence[Message], frames: Sequence[int], template: str = FRAME_TEMPLATE, separator: str = "\n"
) -> list[Message]:
    r"""Puts the frames of videos where the user's texts have `<video>`; a line break behind it stays.

    One video without a placeholder goes in front of the first user turn, with a line break.

    Args:
        messages: The conversation.
        frames: Number of frames of each video.
        template: See `frame_prompt`.
        separator: See `frame_prompt`.

    Raises:
        ConversationError: Placeholders and videos differ in number.
    """
    placed = _place(messages, len(frames), VIDEO_PLACEHOLDER)
    _check(placed, len(frames), VIDEO_PLACEHOLDER)
    texts = iter([frame_prompt(count, template, separator) for count in frames])
    for number, text in list(_users(placed)):
        if VIDEO_PLACEHOLDER in text:
            content = re.sub(VIDEO_PLACEHOLDER, lambda _: next(texts), text)
            placed[number] = {**placed[number], "content": content}
    return placed


def place_media(
    messages: Sequence[Message],
    images: Sequence[T],
    videos: Sequence[Sequence[T]],
    template: str = FRAME_TEMPLATE,
    separator: str = "\n",
) -> tuple[list[Message], list[T]]:
    """Places images and videos.

    Args:
        messages: The conversation. One image, or one video, without a placeholder goes in front of the first user turn.
        images: In the order of `<image>`.
        videos: Frames of each, in the order of `<video>`.
        template: See `frame_prompt`.
        separator: See `frame_prompt`.

    Returns:
        The conversation with nothing but `<image>`; images and frames in the order of these.

    Raises:
        ConversationError: Placeholders differ in number from images or videos.
    """
    placed = place_image(_place(messages, len(videos), VIDEO_PLACEHOLDER), len(images))
    _check(placed, len(images), IMAGE_PLACEHOLDER)
    if not videos:
        _check(placed, 0, VIDEO_PLACEHOLDER)
        return placed, list(images)
    pictures, films, order = iter(images), iter(videos), []
    expanded = place_video(placed, [len(frames) for frames in videos], template, separator)
    for _, text in _users(placed):
        for found in re.findall(f"{IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER}", text):
            order += [next(pictures)] if found == IMAGE_PLACEHOLDER else list(next(films))
    return expanded, order


def _check(messages: Sequence[Message], count: int, placeholder: str) -> None:
    found = count_placeholders(messages, placeholder)
    if found != count:
        raise ConversationError(
            f"{found} {placeholder} placeholders in the user's turns, {count}"
            f" {placeholder.strip('<>')}{'s' * (count != 1)}"
        )
