"""Incremental decoding of tokens to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "�"
_CONTEXT = 8
"""Number of earlier tokens decoded with the new ones: some tokenizers decode a token differently at the start."""


class TextStream:
    """Decodes the tokens of one answer into final pieces of text.

    A piece is held back while its last character may lack bytes and while its end may be the start of a stop text.

    Args:
        tokenizer: Tokenizer of the answer.
        stops: Texts that end the answer; the answer does not include them.

    Attributes:
        ids: All tokens so far.
        text: All pieces so far.
        ended: Whether a stop text has occurred.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        self._decoded = 0  # number of tokens whose text is in `text` or held back
        self._held = ""

    def push(self, token: int) -> str:
        """Adds the next token and returns the new final text, which may be empty."""
        if self.ended:
            return ""
        self.ids.append(token)
        return self._release(self._new_text(), last=False)

    def finish(self) -> str:
        """Returns the text that was held back; called after the last token."""
        return "" if self.ended else self._release(self._new_text(last=True), last=True)

    def _new_text(self, last: bool = False) -> str:
        start = max(0, self._decoded - _CONTEXT)
        before = self.tokenizer.decode(self.ids[start : self._decoded])
        after = self.tokenizer.decode(self.ids[start:])
        if not last and after.endswith(_INCOMPLETE):
            return ""
        self._decoded = len(self.ids)
        return str(after[len(before) :])

    def _release(self, new: str, last: bool) -> str:
        held = self._held + new
        found = [place for place in map(held.find, self.stops) if place >= 0]
        if found:
            self.ended, piece, self._held = True, held[: min(found)], ""
        else:
            keep = 0 if last else max((_overlap(held, stop) for stop in self.stops), default=0)
            piece, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest suffix of a text that is a proper prefix of a stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
