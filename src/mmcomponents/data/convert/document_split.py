"""Splitting of long documents, at the ends of paragraphs or sentences where possible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmcomponents.data.chat.document import render_document
from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = 16
"""Smallest limit on the tokens of a piece: one character may take several tokens."""

_ENDS = tuple(  # from the best position for a split to the worst
    re.compile(pattern) for pattern in (r"\n[ \t\r]*\n\s*", r"\n", r"[.!?…][\"'”’)\]]*\s+|[。！？][”’」』）]*", r"\s+")
)


def split_document(text: str, tokenizer: PreTrainedTokenizerBase, most: int) -> Iterator[str]:
    """Splits a document into pieces whose concatenation is the document.

    A piece ends after the last paragraph that ends in the second half of the text that fits, else after the last line,
    sentence or word there, else between two tokens.

    Args:
        text: The document.
        tokenizer: A fast tokenizer, which reports the offsets of tokens.
        most: Largest number of tokens of a piece, with its end token.

    Raises:
        DataError: The tokenizer is not a fast one, or `most` is too small.
    """
    if most < LEAST:
        raise DataError(f"documents cannot be split into pieces of {most} tokens: the minimum is {LEAST}")
    if not tokenizer.is_fast:
        raise DataError("documents can only be split with a fast tokenizer, which reports the offsets of tokens")
    begin = 0
    while begin < len(text):
        end = begin + _length(text, begin, tokenizer, most)
        yield text[begin:end]
        begin = end


def _length(text: str, begin: int, tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """Returns the length in characters of the piece that begins here."""
    reach = 6 * most
    while True:
        window = text[begin : begin + reach]
        encoded = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets: list[tuple[int, int]] = encoded["offset_mapping"]
        last = begin + reach >= len(text)
        if last or len(offsets) > most:
            break
        reach *= 2
    limit = len(window) if last and len(offsets) < most else offsets[most - 1][0]
    while True:
        to_end = last and limit == len(window)
        length = limit if to_end else _end(window, limit)
        if _tokens(window[:length], tokenizer) <= most:
            return length
        if length == 1:
            raise DataError(f"one character takes more than the {most} tokens of a piece")
        limit = max(1, length * 9 // 10)  # a piece tokenised separately may have a few more tokens


def _end(window: str, limit: int) -> int:
    """Returns the position of the split within the first `limit` characters."""
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(window, limit // 2, limit)]
        if ends:
            return ends[-1]
    return max(1, limit)


def _tokens(piece: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(render_document(piece, tokenizer).input_ids) if piece.strip() else 1
