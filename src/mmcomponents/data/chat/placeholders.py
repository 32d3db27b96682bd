r"""Placeholders of images and videos in a conversation: `<image>` and `<video>` in user turns.

A video is expanded to a numbered `<image>` for each frame. The text of a frame differs between programs for InternVL:
its released fine-tuning code uses `Frame-{number}: <image>` (arXiv 2504.10479); others use `Frame{number}: <image>` and
`Frame{number}:<image>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from mmcomponents.data.chat.special_tokens import ConversationError

IMAGE_PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
FRAME_TEMPLATE = "Frame-{number}: <image>"

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""

T = TypeVar("T")


def _users(messages: Sequence[Message]) -> Iterator[tuple[int, str]]:
    """Yields number and text of each user turn; other content is rejected when the conversation is rendered."""
    for number, message in enumerate(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            text = message.get("content")
            if isinstance(text, str):
                yield number, text


def count_placeholders(messages: Sequence[Message], placeholder: str = IMAGE_PLACEHOLDER) -> int:
    """Counts `<image>`, or another placeholder, in the user turns."""
    return sum(text.count(placeholder) for _, text in _users(messages))


def check_places(messages: Sequence[Message], count: int, placeholder: str = IMAGE_PLACEHOLDER) -> None:
    """Checks that only user turns have placeholders, if there are images.

    Without images, `<image>` is an ordinary word.

    Args:
        messages: The conversation.
        count: Number of images.
        placeholder: `<image>` or `<video>`.

    Raises:
        ConversationError: Another turn has one. It cannot be an input there, and the text alone would be the target.
    """
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or message.get("role") == "user":
            continue
        text = message.get("content")
        if count and isinstance(text, str) and placeholder in text:
            raise ConversationError(
                f"{placeholder} in turn {number}, which is the {message.get('role')}'s: images are inputs in the user's"
                " turns, and only a record kind that makes pictures has them elsewhere (data.kinds)"
            )


def _place(messages: Sequence[Message], count: int, placeholder: str) -> list[Message]:
    """Prepends the placeholder to the first user turn if it is missing and `count` is 1."""
    placed = list(messages)
    if not count:
        return placed
    check_places(messages, count, placeholder)
    first = next(_users(messages), None)
    if count == 1 and first is not None and not count_placeholders(messages, placeholder):
        number, text = first
        placed[number] = {**placed[number], "content": f"{placeholder}\n{text}"}
    return placed


def place_image(messages: Sequence[Message], images: int) -> list[Message]:
    r"""Prepends `<image>\n` to the first user turn if there is one image and no placeholder.

    Other conversations are returned unchanged; rendering checks their number of placeholders.

    Args:
        messages: The conversation.
        images: Number of images of the conversation.

    Raises:
        ConversationError: See `check_places`.
    """
    return _place(messages, images, IMAGE_PLACEHOLDER)


def place_marks(messages: Sequence[Message], images: int, videos: int) -> list[Message]:
    """Returns a conversation that has an `<image>` for each image and a `<video>` for each video.

    One image, or one video, without a placeholder goes in front of the first user turn.

    Args:
        messages: The conversation.
        images: Number of images that come with it.
        videos: Number of videos that come with it.

    Raises:
        ConversationError: Placeholders differ in number from images or videos, or are in another turn than the user's.
    """
    placed = place_image(_place(messages, videos, VIDEO_PLACEHOLDER), images)
    _check(placed, images, IMAGE_PLACEHOLDER)
    _check(placed, videos, VIDEO_PLACEHOLDER)
    return placed


def frame_prompt(count: int, template: str = FRAME_TEMPLATE, separator: str = "\n") -> str:
    """Returns the text of a video: one `<image>` for each frame.

    Args:
        count: Number of frames.
        template: Text of one frame with exactly one `<image>`; `{number}` becomes the frame's number, starting at 1.
        separator: Text between two frames.

    Raises:
        ValueError: `count` is not positive, or the template does not contain exactly one `<image>`.
    """
    if count < 1:
        raise ValueError(f"a video of {count} frames has no prompt")
    if (template + separator).count(IMAGE_PLACEHOLDER) != 1 or IMAGE_PLACEHOLDER not in template:
        raise ValueError(f"the frame template must have {IMAGE_PLACEHOLDER} once, got {template!r}, {separator!r}")
    return separator.join(template.replace("{number}", str(number)) for number in range(1, count + 1))


def place_video(
    messages: Sequence[Message], frames: Sequence[int], template: str = FRAME_TEMPLATE, separator: str = "\n"
) -> list[Message]:
    r"""Replaces each `<video>` in user turns with the frames of a video; line breaks after it are kept.

    A single video without a placeholder is prepended to the first user turn, with a line break.

    Args:
        messages: The conversation.
        frames: Number of frames of each video.
        template: See `frame_prompt`.
        separator: See `frame_prompt`.

    Raises:
        ConversationError: The numbers of placeholders and videos differ.
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
        messages: The conversation. A single image or video without a placeholder is prepended to the first user turn.
        images: Images in the order of `<image>`.
        videos: Frames of each video, in the order of `<video>`.
        template: See `frame_prompt`.
        separator: See `frame_prompt`.

    Returns:
        The conversation with `<image>` placeholders only, and the images and frames in their order.

    Raises:
        ConversationError: The number of placeholders differs from that of images or videos.
    """
    placed = place_marks(messages, len(images), len(videos))
    if not videos:
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
