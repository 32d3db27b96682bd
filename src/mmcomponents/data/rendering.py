"""From a record to the segments of a pack: one for a conversation or a document, two for a pair of answers.

The index measures samples by this function and training renders them by it, so that planned and real lengths are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmcomponents.data.chat import ControlText, Message, RenderedChat, check_roles, render_chat
from mmcomponents.data.documents import render_document
from mmcomponents.data.placeholders import FRAME_TEMPLATE, place_media
from mmcomponents.data.records import conversation, record_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


def render_record(
    record: Mapping[str, Any],
    images: Sequence[T],
    videos: Sequence[Sequence[T]],
    rows: Callable[[Sequence[T]], list[int]],
    tokenizer: PreTrainedTokenizerBase,
    system: str | None = None,
    control_text: ControlText = "encode",
    frame_template: str = FRAME_TEMPLATE,
) -> tuple[list[RenderedChat], list[T]]:
    """Renders a sample for training.

    Args:
        record: See `mmcomponents.data.records`.
        images: In the order of `<image>`.
        videos: Frames of each, in the order of `<video>`.
        rows: Gives the rows of the visual table for some of them.
        tokenizer: Has the tokens of the chat template.
        system: System text for conversations that have none; None: no block.
        control_text: See `render_chat`.
        frame_template: Text of one frame of a video.

    Returns:
        The segments, and the images and frames in the order in which each segment shows them.

    Raises:
        SampleError: The sample cannot be rendered.
    """
    if record_kind(record) == "document":
        text, order = record["text"], list[T]()
        if images or videos:
            document: list[Message] = [{"role": "user", "content": text}]
            placed, order = place_media(document, images, videos, frame_template)
            text = placed[0]["content"]
        return [render_document(text, tokenizer, rows(order), control_text)], order
    chats, order = [], []
    for messages in conversations(record):
        check_roles(messages, "assistant")
        placed, order = place_media(messages, images, videos, frame_template)
        chats.append(render_chat(placed, tokenizer, rows(order), system, control_text))
    return chats, order


def conversations(record: Mapping[str, Any]) -> list[list[Message]]:
    """The conversation of a chat; of a pair that with the chosen answer and that with the rejected one."""
    if record_kind(record) == "chat":
        return [conversation(record)]
    return [conversation(record, "chosen"), conversation(record, "rejected")]
