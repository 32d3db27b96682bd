"""Answers that are a reasoning text and a picture, which learned queries stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.special_tokens import END, IMAGE_END, IMAGE_START, check_template
from mmcomponents.data.chat.template import ChatWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ReasonedAnswer:
    """An answer without the start of its turn.

    Attributes:
        input_ids: Token ids; those of the queries are their numbers.
        labels: Ids of the supervised tokens, `IGNORE` elsewhere.
        queries: Index of the first query.
    """

    input_ids: list[int]
    labels: list[int]
    queries: int


def reasoned_answer(reasoning: str, num_queries: int, tokenizer: PreTrainedTokenizerBase) -> ReasonedAnswer:
    """Renders a reasoning text, the queries of a picture between its tags, and the end of the turn.

    Text and tags are supervised: the tag that begins the picture ends the text when it is generated.

    Args:
        reasoning: The text.
        num_queries: Number of queries.
        tokenizer: Tokenizer with the tokens of the template.

    Raises:
        TemplateError: The tokenizer lacks tokens of images.
    """
    check_template(tokenizer)
    before, after = ChatWriter(tokenizer), ChatWriter(tokenizer)
    before.text(reasoning, supervised=True)
    before.control(IMAGE_START, supervised=True)
    after.control(IMAGE_END, supervised=True)
    after.control(END, supervised=True)
    after.text("\n")
    first, last = before.finish(), after.finish()
    return ReasonedAnswer(
        [*first.input_ids, *range(num_queries), *last.input_ids],
        [*first.labels, *[IGNORE] * num_queries, *last.labels],
        len(first.input_ids),
    )


def reasoning_ids(reasoning: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token ids of a reasoning text, as in training."""
    writer = ChatWriter(tokenizer)
    writer.text(reasoning)
    return writer.finish().input_ids
