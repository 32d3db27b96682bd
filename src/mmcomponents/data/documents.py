"""Plain documents as token ids: the text itself, without a chat template, closed by `<|endoftext|>`.

Every token of the text is a target, and so is the end. Pictures that stand in it are read and not predicted: the loss
of InternVL3's pre-training is taken on text alone (arXiv 2504.10479, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmcomponents.data.chat import (
    END,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    PAD,
    ChatWriter,
    ControlText,
    ConversationError,
    RenderedChat,
    check_template,
)
from mmcomponents.data.placeholders import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render_document(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int] = (),
    control_text: ControlText = "encode",
) -> RenderedChat:
    """Renders a document for training.

    Args:
        text: The document, with `<image>` where a picture stands.
        tokenizer: Has the tokens of the template. One without `<|endoftext|>` closes a document by `<|im_end|>`.
        image_tokens: Rows of the visual table for each image, in the order of the placeholders.
        control_text: What becomes of a text that spells out a control token, see `render_chat`.

    Raises:
        ConversationError: The text is empty or no UTF-8, placeholders and images differ in number, or a text with a
            control token is refused.
        TemplateError: The tokenizer lacks tokens of the template.
    """
    # Without pictures, <image> is a word like any other: pages about the web are full of it.
    parts = text.split(IMAGE_PLACEHOLDER) if image_tokens else [text]
    if not "".join(parts).strip():
        raise ConversationError("the document is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConversationError("the document has bytes that are no UTF-8") from None
    if len(parts) - 1 != len(image_tokens):
        raise ConversationError(f"{len(parts) - 1} <image> placeholders in the document, {len(image_tokens)} images")
    check_template(tokenizer, images=bool(image_tokens))
    writer = ChatWriter(tokenizer)
    if control_text == "refuse":
        writer.codec.refuse([("document", text)])
    writer.text(parts[0], supervised=True)
    for rows, part in zip(image_tokens, parts[1:], strict=True):
        writer.control(IMAGE_START)
        writer.control(IMAGE_CONTEXT, repeats=rows)
        writer.control(IMAGE_END)
        writer.text(part, supervised=True)
    writer.control(PAD if PAD in writer.codec.ids else END, supervised=True)
    return writer.finish()
