r"""Conversations as token ids: the `internvl2_5` chat template, its image placeholders and its label mask.

A turn is `<|im_start|>ROLE\nTEXT<|im_end|>\n`, and every turn is tokenised by itself. Each `<image>` in a user's text
becomes `<img>`, as many `<IMG_CONTEXT>` as the image has rows in the visual table, and `</img>`. Supervised is what the
assistant says and the `<|im_end|>` behind it. (InternVL3, arXiv 2504.10479, section 2.3, and its released code.)

The template's own tokens are put in as ids, resolved by name. A text that spells one of them out stays text: otherwise
a user could end a turn, or ask for rows of an image that is not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "internvl2_5"
IMAGE_PLACEHOLDER = "<image>"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
CONTROL_TOKENS = (START, END, PAD, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""Tokens that only the template may put into a sequence."""
GROUNDING_TOKENS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""Special tokens that a text may use."""
REQUIRED_TOKENS = (START, END, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)

Message = Mapping[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}."""


class ConversationError(SampleError):
    """A conversation that cannot be rendered."""


class TemplateError(ValueError):
    """A tokenizer that lacks tokens of the chat template."""


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


@dataclass(frozen=True)
class _Codec:
    """What the template needs of one tokenizer, looked up once."""

    ids: Mapping[str, int]
    forbidden: frozenset[int]
    pattern: re.Pattern[str]
    prefix: int
    """Tokens of the assistant's role and the line break behind it, which are not supervised."""


def _find(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Id of a token that the tokenizer knows as one, else None: unknown tokens give None or the id of another."""
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        return None
    return number


@lru_cache(maxsize=8)
def _codec(tokenizer: PreTrainedTokenizerBase, size: int) -> _Codec:
    # `size` is there for tokens that are added later: they make a new entry
    ids = {token: _find(tokenizer, token) for token in CONTROL_TOKENS}
    missing = [token for token in REQUIRED_TOKENS if ids[token] is None]
    if missing:
        raise TemplateError(
            f"the chat template {TEMPLATE} needs {len(REQUIRED_TOKENS)} special tokens and this tokenizer"
            f" ({size} tokens) lacks {len(missing)} of them: {', '.join(missing)}"
        )
    control = {token: number for token, number in ids.items() if number is not None}
    for number, added in tokenizer.added_tokens_decoder.items():
        if added.special and added.content not in GROUNDING_TOKENS:
            control[added.content] = number
    longest_first = sorted(control, key=lambda token: (-len(token), token))
    pattern = re.compile("|".join(re.escape(token) for token in longest_first))
    prefix = len(tokenizer.encode("assistant\n", add_special_tokens=False))
    return _Codec(control, frozenset(control.values()), pattern, prefix)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes sure that a tokenizer has the tokens of the template.

    Raises:
        TemplateError: It lacks some; the message names them.
    """
    _codec(tokenizer, len(tokenizer))


def _as_text(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Cuts a text inside each control string, so that the tokenizer sees none of them whole."""
    pieces, begin = [], 0
    for match in pattern.finditer(text):
        cut = match.start() + 1
        pieces.append(text[begin:cut])
        begin = cut
    pieces.append(text[begin:])
    return [piece for piece in pieces if piece]


class _Writer:
    """Collects pieces of text and control tokens, and tokenises all texts in one call: that is where time goes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.codec = _codec(tokenizer, len(tokenizer))
        self.texts: dict[str, int] = {}  # each with its number: line breaks and questions come up again and again
        # (text number or -1, control id, repeats, 0 masked | 1 supervised, skip: tokens at its begin that stay masked)
        self.pieces: list[tuple[int, int, int, bool, int]] = []

    def control(self, token: str, repeats: int = 1, supervised: bool = False) -> None:
        self.pieces.append((-1, self.codec.ids[token], repeats, supervised, 0))

    def text(self, text: str, supervised: bool = False, skip: int = 0) -> None:
        for number, piece in enumerate(_as_text(text, self.codec.pattern)):
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
        context = self.codec.ids[IMAGE_CONTEXT]
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
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ConversationError(f"message {number} is not a role with a text as content")
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    for number, role in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if role != wanted:
            raise ConversationError(f"turn {number + 1} of {len(turns)} is of role {role!r}, where {wanted!r} belongs")
    if not turns or turns[-1] != last:
        raise ConversationError(f"the conversation has {len(turns)} turns and does not end with a turn of the {last}")


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer: the template's end of a turn, and the tokenizer's end of text where it has one."""
    ids = {tokenizer.convert_tokens_to_ids(END), tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None}


def count_placeholders(messages: Sequence[Message]) -> int:
    """Number of `<image>` in the turns of the user."""
    texts = [m.get("content") for m in messages if isinstance(m, Mapping) and m.get("role") == "user"]
    return sum(text.count(IMAGE_PLACEHOLDER) for text in texts if isinstance(text, str))


def place_image(messages: Sequence[Message], images: int) -> list[Message]:
    r"""Puts `<image>\n` in front of the first user turn where there is one image and no placeholder.

    Any other conversation is returned as it is; whether its numbers agree is checked when it is rendered.

    Args:
        messages: The conversation.
        images: Number of images that come with it.
    """
    placed = list(messages)
    if images != 1:
        return placed
    users = [n for n, m in enumerate(placed) if isinstance(m, Mapping) and m.get("role") == "user"]
    if not users or not all(isinstance(placed[n].get("content"), str) for n in users) or count_placeholders(placed):
        return placed
    first = placed[users[0]]
    placed[users[0]] = {**first, "content": f"{IMAGE_PLACEHOLDER}\n{first['content']}"}
    return placed


def _render(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None,
    prompt: bool,
) -> RenderedChat:
    _check_roles(messages, "user" if prompt else "assistant")
    placeholders = count_placeholders(messages)
    if placeholders != len(image_tokens):
        raise ConversationError(f"{placeholders} <image> placeholders in the user's turns, {len(image_tokens)} images")
    writer = _Writer(tokenizer)
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
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
) -> RenderedChat:
    """Renders a conversation for training.

    Args:
        messages: An optional system message, then turns of user and assistant in alternation, the assistant's last.
        tokenizer: Has the tokens of the template, see `check_template`.
        image_tokens: Rows of the visual table for each image, in the order of the `<image>` placeholders.
        system: Text of a system block for a conversation that has none; None: no block.

    Raises:
        ConversationError: The roles do not alternate, or placeholders and images differ in number.
        TemplateError: The tokenizer lacks tokens of the template.
    """
    return _render(messages, tokenizer, image_tokens, system, prompt=False)


def render_prompt(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: Sequence[int],
    system: str | None = None,
) -> RenderedChat:
    """Renders a conversation that ends with a user's turn, up to where the assistant begins to write.

    Arguments and errors are those of `render_chat`. There are no labels: all are `IGNORE`, earlier answers included.
    """
    chat = _render(messages, tokenizer, image_tokens, system, prompt=True)
    chat.labels = [IGNORE] * len(chat.input_ids)
    return chat
