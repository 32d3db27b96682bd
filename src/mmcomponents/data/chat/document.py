"""Rendering of plain documents to token ids: text without a chat template, terminated by `<|endoftext|>`.

All text tokens and the end token are targets. Images are not predicted: the loss of InternVL3's pre-training is
computed on text only (arXiv 2504.10479, section 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER
from mmcomponents.data.chat.special_tokens import (
    END,
    PAD,
    ControlText,
    ConversationError,
    check_template,
)
from mmcomponents.data.chat.template import ChatWriter, RenderedChat

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
        text: The document, with `<image>` placeholders.
        tokenizer: Tokenizer with the tokens of the template. If `<|endoftext|>` is missing, `<|im_end|>` is used.
        image_tokens: Number of visual tokens of each image, in the order of the placeholders.
        control_text: Treatment of control tokens in texts, see `render_chat`.

    Raises:
        ConversationError: The text is empty or not valid UTF-8, the numbers of placeholders and images differ, or a
            control token in the text is refused.
        TemplateError: The tokenizer lacks tokens of the template.
    """
    # Without images, <image> is an ordinary word: it is frequent in documents about web pages.
    parts = text.split(IMAGE_PLACEHOLDER) if image_tokens else [text]
    if not "".join(parts).strip():
        raise ConversationError("the document is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConversationError("the document is not valid UTF-8") from None
    if len(parts) - 1 != len(image_tokens):
        raise ConversationError(f"{len(parts) - 1} <image> placeholders in the document, {len(image_tokens)} images")
    check_template(tokenizer, images=bool(image_tokens))
    writer = ChatWriter(tokenizer)
    if control_text == "refuse":
        writer.codec.refuse([("document", text)])
    writer.text(parts[0], supervised=True)
    for visual_tokens, part in zip(image_tokens, parts[1:], strict=True):
        writer.image(visual_tokens)
        writer.text(part, supervised=True)
    writer.control(PAD if PAD in writer.codec.ids else END, supervised=True)
    return writer.finish()
