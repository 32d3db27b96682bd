"""Conversations to token ids.

    record ── kinds ── SampleRenderer ──► RenderedSample (input_ids, labels, spans, images, extras)
    messages ── render_chat, render_prompt ──► RenderedChat (input_ids, labels, image_spans)

Special tokens, placeholders of images and videos, and tokenizers are defined here; the kinds of records in `kinds`.
"""

from mmcomponents.data.chat.kinds import RecordKind, Sample
from mmcomponents.data.chat.placeholders import Message, place_image, place_media
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample, Span
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ConversationError, TemplateError, check_template, end_ids
from mmcomponents.data.chat.template import RenderedChat, render_chat, render_prompt
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.chat.verdicts import Verdicts

__all__ = [
    "ConversationError",
    "Message",
    "Prompt",
    "RecordKind",
    "RenderedChat",
    "RenderedSample",
    "Sample",
    "SampleRenderer",
    "Span",
    "TemplateError",
    "Verdicts",
    "check_template",
    "end_ids",
    "fingerprint",
    "load_tokenizer",
    "place_image",
    "place_media",
    "render_chat",
    "render_prompt",
    "train_tokenizer",
]
