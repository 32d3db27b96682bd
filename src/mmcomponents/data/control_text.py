"""Control tokens: which ones a chat template owns, and what becomes of a text that spells one of them out.

A text is data and never a command: `<|im_end|>` written by a user must not end a turn, nor `<IMG_CONTEXT>` ask for rows
of an image that is not there. Such a text is either encoded like any other text, letter by letter, or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "internvl2_5"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
CONTROL_TOKENS = (START, END, PAD, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""Tokens that only the template may put into a sequence."""
GROUNDING_TOKENS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""Special tokens that a text may use."""
TURN_TOKENS = (START, END)
"""What every conversation needs."""
IMAGE_TOKENS = (IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""What a conversation with images needs besides."""

ControlText = Literal["encode", "refuse"]
"""What becomes of a text that holds a control token: it is encoded as plain text, or the conversation is refused."""


class ConversationError(SampleError):
    """A conversation that cannot be rendered."""


class TemplateError(ValueError):
    """A tokenizer that lacks tokens of the chat template."""


@dataclass(frozen=True)
class Codec:
    """What the template needs of one tokenizer, looked up once.

    Attributes:
        ids: Id of each control token: those of the template and every other special token that is no grounding tag.
        forbidden: These ids: no text may become one of them.
        pattern: Finds the control tokens in a text.
        prefix: Tokens of the assistant's role and the line break behind it, which are not supervised.
    """

    ids: Mapping[str, int]
    forbidden: frozenset[int]
    pattern: re.Pattern[str]
    prefix: int

    def pieces(self, text: str) -> list[str]:
        """Cuts a text inside each control string, so that the tokenizer sees none of them whole."""
        pieces, begin = [], 0
        for match in self.pattern.finditer(text):
            cut = match.start() + 1
            pieces.append(text[begin:cut])
            begin = cut
        pieces.append(text[begin:])
        return [piece for piece in pieces if piece]

    def refuse(self, texts: Iterable[tuple[str, str]]) -> None:
        """Makes sure that no text spells a control token out.

        Args:
            texts: Role and text of each turn.

        Raises:
            ConversationError: One does; the message names the token and the turn.
        """
        for number, (role, text) in enumerate(texts, start=1):
            found = self.pattern.search(text)
            if found:
                raise ConversationError(
                    f"message {number}, of the {role}, contains the control token {found.group()} as text at character"
                    f" {found.start()}"
                )


def _find(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Id of a token that the tokenizer knows as one, else None: unknown tokens give None or the id of another."""
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        return None
    return number


def codec(tokenizer: PreTrainedTokenizerBase) -> Codec:
    """Returns the codec of a tokenizer.

    Raises:
        TemplateError: It lacks tokens of the template; the message names them.
    """
    return _codec(tokenizer, len(tokenizer))


def _require(ids: Mapping[str, int | None], tokens: Sequence[str], size: int) -> None:
    missing = [token for token in tokens if ids.get(token) is None]
    if missing:
        raise TemplateError(
            f"the chat template {TEMPLATE} needs {len(tokens)} special tokens and this tokenizer"
            f" ({size} tokens) lacks {len(missing)} of them: {', '.join(missing)}"
        )


@lru_cache(maxsize=8)
def _codec(tokenizer: PreTrainedTokenizerBase, size: int) -> Codec:
    # `size` is there for tokens that are added later: they make a new entry
    ids = {token: _find(tokenizer, token) for token in CONTROL_TOKENS}
    _require(ids, TURN_TOKENS, size)
    control = {token: number for token, number in ids.items() if number is not None}
    for number, added in tokenizer.added_tokens_decoder.items():
        if added.special and added.content not in GROUNDING_TOKENS:
            control[added.content] = number
    longest_first = sorted(control, key=lambda token: (-len(token), token))
    pattern = re.compile("|".join(re.escape(token) for token in longest_first))
    prefix = len(tokenizer.encode("assistant\n", add_special_tokens=False))
    return Codec(control, frozenset(control.values()), pattern, prefix)


def check_template(tokenizer: PreTrainedTokenizerBase, images: bool = True) -> None:
    """Makes sure that a tokenizer has the tokens of the template.

    Args:
        tokenizer: The tokenizer.
        images: Whether conversations have images, which need tokens of their own.

    Raises:
        TemplateError: It lacks some; the message names them.
    """
    _check(tokenizer, len(tokenizer), images)


@lru_cache(maxsize=16)
def _check(tokenizer: PreTrainedTokenizerBase, size: int, images: bool) -> None:  # asked for each conversation
    tokens = (*TURN_TOKENS, *IMAGE_TOKENS) if images else TURN_TOKENS
    _require({token: _find(tokenizer, token) for token in tokens}, tokens, size)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer: the template's end of a turn and of a text, and the tokenizer's own."""
    ids = {_find(tokenizer, END), _find(tokenizer, PAD), tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None}
