"""Rendering of records to segments of a pack: one for a conversation or a document, two for a pair of answers.

Both indexing and training use this function, so that planned and actual lengths are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE, Message, place_media
from mmcomponents.data.chat.record_kinds import conversations, record_kind
from mmcomponents.data.chat.special_tokens import ControlText
from mmcomponents.data.chat.template import RenderedChat, check_roles, render_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


def render_record(
    record: Mapping[str, Any],
    images: Sequence[T],
    videos: Sequence[Sequence[T]],
    visual_tokens: Callable[[Sequence[T]], list[int]],
    tokenizer: PreTrainedTokenizerBase,
    system: str | None = None,
    control_text: ControlText = "encode",
    frame_template: str = FRAME_TEMPLATE,
) -> tuple[list[RenderedChat], list[T]]:
    """Renders a sample for training.

    Args:
        record: See `mmcomponents.data.chat.record_kinds`.
        images: Images in the order of `<image>`.
        videos: Frames of each video, in the order of `<video>`.
        visual_tokens: Returns the number of visual tokens of each image or frame.
        tokenizer: Tokenizer with the tokens of the chat template.
        system: System text for conversations that have none; None: no system block.
        control_text: See `render_chat`.
        frame_template: Text of one video frame.

    Returns:
        The segments, and the images and frames in their order in each segment.

    Raises:
        SampleError: The sample cannot be rendered.
    """
    if record_kind(record) == "document":
        text, order = record["text"], list[T]()
        if images or videos:
            document: list[Message] = [{"role": "user", "content": text}]
            placed, order = place_media(document, images, videos, frame_template)
            text = placed[0]["content"]
        return [render_document(text, tokenizer, visual_tokens(order), control_text)], order
    chats, order = [], []
    for messages in conversations(record):
        check_roles(messages, "assistant")
        placed, order = place_media(messages, images, videos, frame_template)
        chats.append(render_chat(placed, tokenizer, visual_tokens(order), system, control_text))
    return chats, order
