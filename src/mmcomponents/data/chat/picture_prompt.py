"""Prompts that ask for a picture, and the prompt that stands for one that is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.special_tokens import (
    END,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    PAD,
    START,
    ConversationError,
    check_template,
    codec,
)
from mmcomponents.data.chat.template import ChatWriter, RenderedChat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASK = "Generate an image of: "
"""Beginning of a prompt that asks for a picture (SynerGen-VL, arXiv 2412.09604, section 4.1)."""


@dataclass(frozen=True)
class Unconditional:
    """Prompt whose question is replaced by a fixed sentence with the unconditional token.

    Attributes:
        input_ids: Token ids.
        place: Index of the unconditional token.
        kept: Number of first tokens that are those of the prompt, before the turn that is replaced.
    """

    input_ids: list[int]
    place: int
    kept: int


def unconditional(prompt: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Unconditional:
    """Returns a prompt with the last turn of the user replaced; what is before it, such as a system text, stays.

    Args:
        prompt: Ids of a rendered prompt, which ends with the start of the assistant's answer.
        tokenizer: Tokenizer that the prompt was rendered with.

    Raises:
        ConversationError: The prompt does not have the form of the template.
    """
    ids, known = list(prompt), codec(tokenizer).ids
    starts = [place for place, token in enumerate(ids) if token == known[START]]
    if len(starts) < 2 or known[END] not in ids[starts[-2] : starts[-1]]:
        raise ConversationError(f"a prompt of {len(ids)} tokens has no turn of the user before the answer")
    end = ids.index(known[END], starts[-2])
    writer = ChatWriter(tokenizer)
    writer.control(START)
    writer.text(f"user\n{ASK}")
    begin = ids[: starts[-2]] + writer.finish().input_ids
    return Unconditional([*begin, known.get(PAD, known[END]), *ids[end:]], len(begin), starts[-2])


def picture_answer(visual_tokens: int, tokenizer: PreTrainedTokenizerBase) -> RenderedChat:
    """Renders the answer that is a picture, without its turn's start; the tokens around the picture are supervised.

    Args:
        visual_tokens: Number of visual tokens of the picture.
        tokenizer: Tokenizer with the tokens of the template.

    Raises:
        TemplateError: The tokenizer lacks tokens of images.
    """
    check_template(tokenizer)
    writer = ChatWriter(tokenizer)
    writer.control(IMAGE_START, supervised=True)
    writer.control(IMAGE_CONTEXT, repeats=visual_tokens)
    writer.control(IMAGE_END, supervised=True)
    writer.control(END, supervised=True)
    writer.text("\n")
    return writer.finish()


def padded(ids: list[int], labels: list[int], length: int, pad_id: int) -> tuple[list[int], list[int]]:
    """Returns ids and labels with padding tokens at the end, up to a length."""
    missing = length - len(ids)
    return [*ids, *[pad_id] * missing], [*labels, *[IGNORE] * missing]
