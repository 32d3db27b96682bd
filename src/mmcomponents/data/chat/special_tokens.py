"""Special tokens of the chat template, and the treatment of texts that contain them.

Texts cannot inject control tokens: `<|im_end|>` written by a user must not end a turn, and `<IMG_CONTEXT>` must not
refer to visual tokens of a missing image. Such a text is either encoded like any other text or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.model_files import ModelFileError, read_json_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "internvl2_5"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
IMAGE_START, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
CONTROL_TOKENS = (START, END, PAD, IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""Tokens reserved for the template."""
GROUNDING_TOKENS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""Special tokens allowed in texts."""
TURN_TOKENS = (START, END)
"""Tokens required for every conversation."""
IMAGE_TOKENS = (IMAGE_START, IMAGE_END, IMAGE_CONTEXT)
"""Additional tokens required for conversations with images."""

ControlText = Literal["encode", "refuse"]
"""Treatment of a control token in a text: encode it as plain text, or refuse the conversation."""


class ConversationError(SampleError):
    """A conversation cannot be rendered."""


class TemplateError(ValueError):
    """A tokenizer lacks tokens of the chat template."""


@dataclass(frozen=True)
class Codec:
    """Properties of a tokenizer that the template needs.

    Attributes:
        ids: Id of each control token: those of the template and all other special tokens except grounding tags.
        forbidden: Set of these ids, which no text may be encoded to.
        pattern: Pattern that matches control tokens in a text.
        prefix: Number of tokens of the assistant's role and the line break after it, which are not supervised.
    """

    ids: Mapping[str, int]
    forbidden: frozenset[int]
    pattern: re.Pattern[str]
    prefix: int

    def pieces(self, text: str) -> list[str]:
        """Splits a text inside each control token, so that the tokenizer does not recognise any."""
        pieces, begin = [], 0
        for match in self.pattern.finditer(text):
            cut = match.start() + 1
            pieces.append(text[begin:cut])
            begin = cut
        pieces.append(text[begin:])
        return [piece for piece in pieces if piece]

    def refuse(self, texts: Iterable[tuple[str, str]]) -> None:
        """Checks that no text contains a control token.

        Args:
            texts: Role and text of each turn.

        Raises:
            ConversationError: A text contains one; the message names the token and the turn.
        """
        for number, (role, text) in enumerate(texts, start=1):
            found = self.pattern.search(text)
            if found:
                raise ConversationError(
                    f"message {number}, of the {role}, contains the control token {found.group()} as text at character"
                    f" {found.start()}"
                )


def _find(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Returns the id of a token, or None if the tokenizer does not have it."""
    number = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(number, int) or tokenizer.convert_ids_to_tokens(number) != token:
        return None
    return number


def codec(tokenizer: PreTrainedTokenizerBase) -> Codec:
    """Returns the codec of a tokenizer.

    Raises:
        TemplateError: The tokenizer lacks tokens of the template; the message names them.
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
    # `size` is part of the cache key because tokens may be added later
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
    """Checks that a tokenizer has the tokens of the template.

    Args:
        tokenizer: Tokenizer that encodes the conversations.
        images: Whether conversations have images, which need additional tokens.

    Raises:
        TemplateError: Tokens are missing; the message names them.
    """
    _check(tokenizer, len(tokenizer), images)


@lru_cache(maxsize=16)
def _check(tokenizer: PreTrainedTokenizerBase, size: int, images: bool) -> None:  # cached: called per conversation
    tokens = (*TURN_TOKENS, *IMAGE_TOKENS) if images else TURN_TOKENS
    _require({token: _find(tokenizer, token) for token in tokens}, tokens, size)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Returns the token ids that end an answer.

    They are the template's end of turn and of text, the tokenizer's EOS, and those of the `generation_config.json` in
    the folder that the tokenizer was loaded from.
    """
    ids = {_find(tokenizer, END), _find(tokenizer, PAD), tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None} | _generation_ends(str(getattr(tokenizer, "name_or_path", "")))


def _generation_ends(folder: str) -> set[int]:
    """Returns the ids that end an answer according to the generation settings of a folder of a model."""
    file = Path(folder) / "generation_config.json"
    if not folder or not file.is_file():
        return set()
    try:
        settings = read_json_file(file)
    except (OSError, ModelFileError) as error:
        raise DataError(str(error)) from error
    ends = settings.get("eos_token_id") if isinstance(settings, dict) else None
    return {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}
