"""Conversations to token ids.

    record ────── SampleRenderer ────────► RenderedChat (input_ids, labels, image_spans)
    messages ── render_chat, render_prompt ──┘

Special tokens, placeholders of images and videos, tokenizers and the kinds of records are defined here.
"""

from mmcomponents.data.chat.critic_prompt import critique
from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.placeholders import Message, place_image, place_media
from mmcomponents.data.chat.rendering import render_record
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ConversationError, TemplateError, check_template, end_ids
from mmcomponents.data.chat.template import RenderedChat, render_chat, render_prompt
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.chat.verdicts import Verdicts

__all__ = [
    "ConversationError",
    "Message",
    "RenderedChat",
    "SampleRenderer",
    "TemplateError",
    "Verdicts",
    "check_template",
    "critique",
    "end_ids",
    "fingerprint",
    "load_tokenizer",
    "place_image",
    "place_media",
    "render_chat",
    "render_document",
    "render_prompt",
    "render_record",
    "train_tokenizer",
]
