r"""Conversations as token ids: the `internvl2_5` chat template, its image placeholders and its label mask.

A turn is `<|im_start|>ROLE\nTEXT<|im_end|>\n`, and every turn is tokenised by itself. Each `<image>` in a user's text
becomes `<img>`, as many `<IMG_CONTEXT>` as the image has rows in the visual table, and `</img>`. Supervised is what the
assistant says and the `<|im_end|>` behind it. (InternVL3, arXiv 2504.10479, section 2.3, and its released code.)

The template's own tokens are put in as ids, resolved by name. No text becomes one of them, see data/control_text.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.control_text import (
    CONTROL_TOKENS,
    END,
    GROUNDING_TOKENS,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    PAD,
    START,
    TEMPLATE,
    ControlText,
    ConversationError,
    TemplateError,
    check_template,
    codec,
    end_ids,
)
from mmcomponents.data.placeholders import IMAGE_PLACEHOLDER, Message, count_placeholders, place_image

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [  # the words of the template, for those who speak it
    "CONTROL_TOKENS",
    "END",
    "GROUNDING_TOKENS",
    "IMAGE_CONTEXT",
    "IMAGE_END",
    "IMAGE_START",
    "PAD",
    "START",
    "TEMPLATE",
    "ControlText",
    "ConversationError",
    "Message",
    "RenderedChat",
    "TemplateError",
    "check_template",
    "count_placeholders",
    "end_ids",
    "place_image",
    "render_chat",
    "render_prompt",
]


@dataclass
class RenderedChat:
    """A conversation as the model reads it.

    Attributes:
        input_ids: Token ids.
        labels: Ids of the supervised tokens, `IGNORE` elsewhere; as long as `input_ids` and not shifted.
        image_spans: For each image, the index of its first `<IMG_CONTEXT>` and their number.
    """

    input_ids: list[int]
    labels: list[int]
    image_spans: list[tuple[int, int]]


class _Writer:
    """Collects pieces of text and control tokens, and tokenises all texts in one call: that is where time goes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.codec = codec(tokenizer)
        self.texts: dict[str, int] = {}  # each with its number: line breaks and questions come up again and again
        # (text number or -1, control id, repeats, 0 masked | 1 supervised, skip: tokens at its begin that stay masked)
        self.pieces: list[tuple[int, int, int, bool, int]] = []

    def control(self, token: str, repeats: int = 1, supervised: bool = False) -> None:
        self.pieces.append((-1, self.codec.ids[token], repeats, supervised, 0))

    def text(self, text: str, supervised: bool = False, skip: int = 0) -> None:
        for number, piece in enumerate(self.codec.pieces(text)):
            place = self.texts.setdefault(piece, len(self.texts))
            self.pieces.append((place, 0, 1, supervised, skip if number == 0 else 0))

    def encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for text, ids in zip(texts, encoded, strict=True):
            if not self.codec.forbidden.isdisjoint(ids):
                raise ConversationError(f"the text {text[:80]!r} still becomes a control token")
        return encoded

    def finish(self) -> RenderedChat:
        encoded = self.encode(list(self.texts))
        chat = RenderedChat([], [], [])
        context = self.codec.ids.get(IMAGE_CONTEXT)
        for number, control, repeats, supervised, skip in self.pieces:
            ids = encoded[number] if number >= 0 else [control] * repeats
            if number < 0 and control == context:
                chat.image_spans.append((len(chat.input_ids), repeats))
            chat.input_ids += ids
            chat.labels += [IGNORE] * min(skip, len(ids)) + ids[skip:] if supervised else [IGNORE] * len(ids)
        return chat


def _check_roles(messages: Sequence[Message], last: str) -> None:
    if not messages:
        raise ConversationError("the conversation is empty")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ConversationError(f"message {number} is not a role with a text as content")
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            raise ConversationError(f"message {number} has bytes that are no UTF-8") from None
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if role != wanted:
            raise ConversationError(f"turn {number + 1} of {len(turns)} is of role {role!r}, where {wanted!r} belongs")
    if not turns or turns[-1] != last:
        raise ConversationError(f"the conversation has {len(turns)} turns and does not end with a turn of the {last}")


def _render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None,
    control_text: ControlText,
    prompt: bool,
) -> RenderedChat:
    _check_roles(messages, "user" if prompt else "assistant")
    check_template(tokenizer, images=bool(image_tokens))
    placeholders = count_placeholders(messages)
    if placeholders != len(image_tokens):
        raise ConversationError(f"{placeholders} <image> placeholders in the user's turns, {len(image_tokens)} images")
    writer = _Writer(tokenizer)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if control_text == "refuse":
        writer.codec.refuse((message["role"], message["content"]) for message in messages)
    elif control_text != "encode":
        raise ValueError(f"control_text must be encode or refuse, not {control_text!r}")
    images = iter(image_tokens)
    for message in messages:
        role, content = message["role"], message["content"]
        answer = role == "assistant"
        writer.control(START)
        parts = content.split(IMAGE_PLACEHOLDER) if role == "user" else [content]
        # Role and text are tokenised together, as in the reference: a line break at the start of the text may merge
        # with the one behind the role.
        writer.text(f"{role}\n{parts[0]}", supervised=answer, skip=writer.codec.prefix)
        for part in parts[1:]:
            writer.control(IMAGE_START)
            writer.control(IMAGE_CONTEXT, repeats=next(images))
            writer.control(IMAGE_END)
            writer.text(part)
        writer.control(END, supervised=answer)
        writer.text("\n")
    if prompt:
        writer.control(START)
        writer.text("assistant\n")
    return writer.finish()


def render_chat(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None = None,
    control_text: ControlText = "encode",
) -> RenderedChat:
    """Renders a conversation for training.

    Args:
        messages: An optional system message, then turns of user and assistant in alternation, the assistant's last.
        tokenizer: Has the tokens of the template, see `check_template`.
        image_tokens: Rows of the visual table for each image, in the order of the `<image>` placeholders.
        system: Text of a system block for a conversation that has none; None: no block.
        control_text: What becomes of a text that spells out a control token: `encode`, it stays text; `refuse`.

    Raises:
        ConversationError: The roles do not alternate, placeholders and images differ in number, or a text with a
            control token is refused.
        TemplateError: The tokenizer lacks tokens of the template.
    """
    return _render(messages, tokenizer, image_tokens, system, control_text, prompt=False)


def render_prompt(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None = None,
    control_text: ControlText = "encode",
) -> RenderedChat:
    """Renders a conversation that ends with a user's turn, up to where the assistant begins to write.

    Arguments and errors are those of `render_chat`. There are no labels: all are `IGNORE`, earlier answers included.
    """
    chat = _render(messages, tokenizer, image_tokens, system, control_text, prompt=True)
    chat.labels = [IGNORE] * len(chat.input_ids)
    return chat
