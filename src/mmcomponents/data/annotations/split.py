"""Cutting a long document into pieces, where a paragraph or a sentence ends if one does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmcomponents.data.documents import render_document
from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = 16
"""Tokens of a piece that can be asked for at least: one character may take several."""

_ENDS = tuple(  # from the best place for a cut to the worst
    re.compile(pattern) for pattern in (r"\n[ \t\r]*\n\s*", r"\n", r"[.!?…][\"'”’)\]]*\s+|[。！？][”’」』）]*", r"\s+")
)


def split_document(text: str, tokenizer: PreTrainedTokenizerBase, most: int) -> Iterator[str]:
    """Cuts a document; the pieces, put together again, are the document.

    A piece is cut behind the last paragraph that ends in the second half of what fits, else behind the last line,
    sentence or word there, else between two tokens.

    Args:
        text: The document.
        tokenizer: Decides what a token is; it has to tell where each one stands.
        most: Tokens of a piece, with the one that closes it.

    Raises:
        DataError: The tokenizer does not tell the places of its tokens, or `most` is too small.
    """
    if most < LEAST:
        raise DataError(f"documents cannot be split into pieces of {most} tokens: {LEAST} are the least")
    if not tokenizer.is_fast:
        raise DataError("documents can only be split with a tokenizer that tells the place of each token (a fast one)")
    begin = 0
    while begin < len(text):
        end = begin + _length(text, begin, tokenizer, most)
        yield text[begin:end]
        begin = end


def _length(text: str, begin: int, tokenizer: PreTrainedTokenizerBase, most: int) -> int:
    """Characters of the piece that begins here."""
    reach = 6 * most
    while True:
        window = text[begin : begin + reach]
        places = tokenizer(window, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets: list[tuple[int, int]] = places["offset_mapping"]
        last = begin + reach >= len(text)
        if last or len(offsets) > most:
            break
        reach *= 2
    limit = len(window) if last and len(offsets) < most else offsets[most - 1][0]
    while True:
        whole = last and limit == len(window)
        length = limit if whole else _end(window, limit)
        if _tokens(window[:length], tokenizer) <= most:
            return length
        if length == 1:
            raise DataError(f"one character takes more than the {most} tokens of a piece")
        limit = max(1, length * 9 // 10)  # pieces are tokenised by themselves, which may take a few tokens more


def _end(window: str, limit: int) -> int:
    """Where to cut within the first `limit` characters."""
    for pattern in _ENDS:
        ends = [match.end() for match in pattern.finditer(window, limit // 2, limit)]
        if ends:
            return ends[-1]
    return max(1, limit)


def _tokens(piece: str, tokenizer: PreTrainedTokenizerBase) -> int:
    return len(render_document(piece, tokenizer).input_ids) if piece.strip() else 1
