r"""Rendering of conversations to token ids: the `internvl2_5` chat template with image placeholders and labels.

A turn is `<|im_start|>ROLE\nTEXT<|im_end|>\n`, and each turn is tokenized separately. Each `<image>` in a user turn
becomes `<img>`, one `<IMG_CONTEXT>` per visual token of the image, and `</img>`. The assistant's text and the
`<|im_end|>` after it are supervised. (InternVL3, arXiv 2504.10479, section 2.3, and its released code.)

The template's own tokens are inserted as ids, resolved by name. Texts are never encoded to them, see `special_tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER, Message, count_placeholders, place_image
from mmcomponents.data.chat.special_tokens import (
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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
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

_MOST_KNOWN, _LONGEST_KNOWN = 16384, 128
"""Number of texts whose ids are cached per tokenizer, and their maximum length in characters: usually a few MB, at most
60."""


@dataclass
class RenderedChat:
    """A rendered conversation.

    Attributes:
        input_ids: Token ids.
        labels: Ids of the supervised tokens, `IGNORE` elsewhere; same length as `input_ids`, not shifted.
        image_spans: For each image, the index of its first `<IMG_CONTEXT>` and their number.
    """

    input_ids: list[int]
    labels: list[int]
    image_spans: list[tuple[int, int]]


class _Texts:
    """Tokenizes texts with a cache for short ones, since roles, line breaks and questions repeat.

    All texts that are not cached are tokenized in one call, because calls are expensive. The cache has two halves; when
    the younger is full, it replaces the older, so that frequent texts stay cached.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.codec = codec(tokenizer)
        self.younger: dict[str, tuple[int, ...]] = {}
        self.older: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Returns the ids of each text, without control tokens."""
        found: dict[str, tuple[int, ...]] = {}
        missing: dict[str, list[str]] = {}
        for text in texts:
            ids = self.younger.get(text)
            if ids is None:
                ids = self.older.get(text)
                if ids is None:
                    missing[text] = self.codec.pieces(text)
                    continue
                self._remember(text, ids)
            found[text] = ids
        if missing:
            encoded = iter(self._tokenize([piece for pieces in missing.values() for piece in pieces]))
            for text, pieces in missing.items():
                found[text] = tuple(chain.from_iterable(islice(encoded, len(pieces))))
                self._remember(text, found[text])
        return found

    def _remember(self, text: str, ids: tuple[int, ...]) -> None:
        if len(text) > _LONGEST_KNOWN:
            return
        if len(self.younger) >= _MOST_KNOWN // 2:
            self.younger, self.older = {}, self.younger
        self.younger[text] = ids

    def _tokenize(self, pieces: list[str]) -> list[list[int]]:
        if not pieces:
            return []
        encoded: list[list[int]] = self.tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
        for piece, ids in zip(pieces, encoded, strict=True):
            if not self.codec.forbidden.isdisjoint(ids):
                raise ConversationError(f"the text {piece[:80]!r} is encoded to a control token")
        return encoded


@lru_cache(maxsize=8)
def _texts(tokenizer: PreTrainedTokenizerBase, size: int) -> _Texts:
    # `size` is part of the cache key because tokens may be added later
    return _Texts(tokenizer)


class ChatWriter:
    """Collects texts and control tokens, and tokenizes all texts together."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.known = _texts(tokenizer, len(tokenizer))
        self.codec = self.known.codec
        # (text or None, control id, repeats, supervised, skip: number of masked tokens at the start of the text)
        self.pieces: list[tuple[str | None, int, int, bool, int]] = []

    def control(self, token: str, repeats: int = 1, supervised: bool = False) -> None:
        self.pieces.append((None, self.codec.ids[token], repeats, supervised, 0))

    def text(self, text: str, supervised: bool = False, skip: int = 0) -> None:
        self.pieces.append((text, 0, 1, supervised, skip))

    def image(self, visual_tokens: int) -> None:
        self.control(IMAGE_START)
        self.control(IMAGE_CONTEXT, repeats=visual_tokens)
        self.control(IMAGE_END)

    def finish(self) -> RenderedChat:
        encoded = self.known.encode(dict.fromkeys(piece[0] for piece in self.pieces if piece[0] is not None))
        input_ids, labels, spans = list[int](), list[int](), list[tuple[int, int]]()
        context = self.codec.ids.get(IMAGE_CONTEXT)
        for text, control, repeats, supervised, skip in self.pieces:
            ids = (control,) * repeats if text is None else encoded[text]
            if text is None and control == context:
                spans.append((len(input_ids), repeats))
            input_ids += ids
            masked = min(skip, len(ids)) if supervised else len(ids)
            labels += (IGNORE,) * masked
            labels += ids[masked:]
        return RenderedChat(input_ids, labels, spans)


def check_roles(messages: Sequence[Message], last: str) -> None:
    """Checks that the roles of messages alternate as required by the template.

    Args:
        messages: The conversation.
        last: Role of the last turn.

    Raises:
        ConversationError: The roles do not alternate, or a message is not a role with a text.
    """
    if not messages:
        raise ConversationError("the conversation is empty")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ConversationError(f"message {number} is not a role with a text as content")
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            raise ConversationError(f"message {number} is not valid UTF-8") from None
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if role != wanted:
            raise ConversationError(f"turn {number + 1} of {len(turns)} has role {role!r}, expected {wanted!r}")
    if not turns or turns[-1] != last:
        raise ConversationError(f"the conversation has {len(turns)} turns and does not end with a turn of the {last}")


def _render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None,
    control_text: ControlText,
    prompt: bool,
    prefix: str = "",
) -> RenderedChat:
    check_roles(messages, "user" if prompt else "assistant")
    check_template(tokenizer, images=bool(image_tokens))
    placeholders = count_placeholders(messages)
    if placeholders != len(image_tokens):
        raise ConversationError(f"{placeholders} <image> placeholders in the user's turns, {len(image_tokens)} images")
    writer = ChatWriter(tokenizer)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    if control_text == "refuse":
        begin = [("assistant", prefix)] if prefix else []
        writer.codec.refuse([*((message["role"], message["content"]) for message in messages), *begin])
    elif control_text != "encode":
        raise ValueError(f"control_text must be encode or refuse, not {control_text!r}")
    images = iter(image_tokens)
    for message in messages:
        role, content = message["role"], message["content"]
        answer = role == "assistant"
        writer.control(START)
        parts = content.split(IMAGE_PLACEHOLDER) if role == "user" else [content]
        # Role and text are tokenized together, as in the reference: a line break at the start of the text may merge
        # with the one after the role.
        writer.text(f"{role}\n{parts[0]}", supervised=answer, skip=writer.codec.prefix)
        for part in parts[1:]:
            writer.image(next(images))
            writer.text(part)
        writer.control(END, supervised=answer)
        writer.text("\n")
    if prompt:
        writer.control(START)
        writer.text(f"assistant\n{prefix}")  # tokenized together, as an answer in training
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
        messages: An optional system message, then alternating user and assistant turns, ending with the assistant.
        tokenizer: Tokenizer with the tokens of the template, see `check_template`.
        image_tokens: Number of visual tokens of each image, in the order of the `<image>` placeholders.
        system: Text of a system block for a conversation that has none; None: no block.
        control_text: Treatment of control tokens in texts: `encode` as plain text, or `refuse`.

    Raises:
        ConversationError: The roles do not alternate, the numbers of placeholders and images differ, or a control token
            in a text is refused.
        TemplateError: The tokenizer lacks tokens of the template.
    """
    return _render(messages, tokenizer, image_tokens, system, control_text, prompt=False)


def render_prompt(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None = None,
    control_text: ControlText = "encode",
    prefix: str = "",
) -> RenderedChat:
    """Renders a conversation that ends with a user turn, up to the start of the assistant's answer.

    Arguments and errors are those of `render_chat`. All labels are `IGNORE`, including those of earlier answers.

    Args:
        messages: See `render_chat`; the last turn is a user turn.
        tokenizer: See `render_chat`.
        image_tokens: See `render_chat`.
        system: See `render_chat`.
        control_text: See `render_chat`.
        prefix: Start of the answer, for the assistant to continue.
    """
    chat = _render(messages, tokenizer, image_tokens, system, control_text, prompt=True, prefix=prefix)
    chat.labels = [IGNORE] * len(chat.input_ids)
    return chat
