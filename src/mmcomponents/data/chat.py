r"""Conversations as token ids: the `internvl2_5` chat template, its image placeholders and its label mask.

A turn is `<|im_start|>ROLE\nTEXT<|im_end|>\n`, and every turn is tokenised by itself. Each `<image>` in a user's text
becomes `<img>`, as many `<IMG_CONTEXT>` as the image has rows in the visual table, and `</img>`. Supervised is what the
assistant says and the `<|im_end|>` behind it. (InternVL3, arXiv 2504.10479, section 2.3, and its released code.)

The template's own tokens are put in as ids, resolved by name. No text becomes one of them, see data/control_text.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
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

_MOST_KNOWN, _LONGEST_KNOWN = 16384, 128
"""Texts whose ids are remembered for a tokenizer, and characters of the longest: mostly a few MB, never above 60."""


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


class _Texts:
    """Tokenises texts, and remembers short ones: roles, line breaks and questions come up again and again.

    What is not known is tokenised in one call: that is where time goes. Two halves are kept; when the younger is full
    it takes the place of the older, so that what is asked for often stays.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.codec = codec(tokenizer)
        self.younger: dict[str, tuple[int, ...]] = {}
        self.older: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Ids of each text; none of them is a control token."""
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
                raise ConversationError(f"the text {piece[:80]!r} still becomes a control token")
        return encoded


@lru_cache(maxsize=8)
def _texts(tokenizer: PreTrainedTokenizerBase, size: int) -> _Texts:
    # `size` is there for tokens that are added later: they make a new entry
    return _Texts(tokenizer)


class ChatWriter:
    """Collects texts and control tokens, and tokenises all texts together."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.known = _texts(tokenizer, len(tokenizer))
        self.codec = self.known.codec
        # (text or None, control id, repeats, supervised, skip: tokens at the text's begin that stay masked)
        self.pieces: list[tuple[str | None, int, int, bool, int]] = []

    def control(self, token: str, repeats: int = 1, supervised: bool = False) -> None:
        self.pieces.append((None, self.codec.ids[token], repeats, supervised, 0))

    def text(self, text: str, supervised: bool = False, skip: int = 0) -> None:
        self.pieces.append((text, 0, 1, supervised, skip))

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
    """Makes sure that messages alternate as the template has them.

    Args:
        messages: The conversation.
        last: Role of the last turn.

    Raises:
        ConversationError: They do not, or one is not a role with a text.
    """
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
        begun = [("assistant", prefix)] if prefix else []
        writer.codec.refuse([*((message["role"], message["content"]) for message in messages), *begun])
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
        writer.text(f"assistant\n{prefix}")  # together, as an answer is that is learnt
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
    prefix: str = "",
) -> RenderedChat:
    """Renders a conversation that ends with a user's turn, up to where the assistant begins to write, or goes on.

    Arguments and errors are those of `render_chat`. There are no labels: all are `IGNORE`, earlier answers included.

    Args:
        messages: See `render_chat`; the last turn is the user's.
        tokenizer: See `render_chat`.
        image_tokens: See `render_chat`.
        system: See `render_chat`.
        control_text: See `render_chat`.
        prefix: Begin of the answer, which the assistant goes on with: a text like any other.
    """
    chat = _render(messages, tokenizer, image_tokens, system, control_text, prompt=True, prefix=prefix)
    chat.labels = [IGNORE] * len(chat.input_ids)
    return chat
