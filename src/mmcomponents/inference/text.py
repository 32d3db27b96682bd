"""Tokens to text while they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "�"
_CONTEXT = 8
"""Tokens before the new ones that are decoded with them: some tokenizers write a token otherwise at the begin."""


class TextStream:
    """Turns the tokens of one answer into pieces of text that never need to be taken back.

    A piece is held back while its last letter may lack bytes, and while its end may be the begin of a stop text.

    Args:
        tokenizer: Of the tokens.
        stops: Texts at which the answer ends; they are no part of it.

    Attributes:
        ids: All tokens so far.
        text: All pieces so far.
        ended: Whether a stop text has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        self._decoded = 0  # tokens whose text is in `text` or held back
        self._held = ""

    def push(self, token: int) -> str:
        """Takes the next token; returns the piece of text that is certain by now, perhaps none."""
        if self.ended:
            return ""
        self.ids.append(token)
        return self._release(self._new_text(), last=False)

    def finish(self) -> str:
        """Returns what was held back; call it when there are no more tokens."""
        return "" if self.ended else self._release(self._new_text(whole=True), last=True)

    def _new_text(self, whole: bool = False) -> str:
        start = max(0, self._decoded - _CONTEXT)
        before = self.tokenizer.decode(self.ids[start : self._decoded])
        after = self.tokenizer.decode(self.ids[start:])
        if not whole and after.endswith(_INCOMPLETE):
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
    """Length of the longest end of a text that is a begin of a stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
