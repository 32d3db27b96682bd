r"""Whether a response gives the right answer: finding the answer in it, and comparing two answers.

A checker is called with a response and the true answer. It says None where it finds no answer in the response: such a
response breaks the form that was asked for. The forms are those of MMPR (arXiv 2411.10442): a last line that begins
with "Final answer:", and `\boxed{…}`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from mmcomponents.inference.choices import alone, spoken, stated
from mmcomponents.inference.numbers import Number, last_number, whole_number


class Checker(ABC):
    """Says whether a response is right: `checker(response, answer)` is True, False, or None without an answer."""

    @abstractmethod
    def extract(self, response: str) -> str | None:
        """The answer that a response gives; None: it gives none."""

    @abstractmethod
    def same(self, found: str, answer: str) -> bool:
        """Whether two answers are the same.

        Args:
            found: What was extracted.
            answer: The true answer.
        """

    def parse(self, found: str) -> Any:
        """An answer in the form that `agree` compares: where many are compared, each is parsed once."""
        return found

    def agree(self, found: Any, answer: Any) -> bool:
        """Whether two answers that were parsed are the same."""
        return self.same(found, answer)

    def truth(self, text: str) -> str:
        """The answer that a reference text gives: what is extracted from it, else the text itself."""
        found = self.extract(text)
        return text.strip() if found is None else found

    def __call__(self, response: str, answer: str) -> bool | None:
        """Whether a response gives the true answer; None: it gives none."""
        found = self.extract(response)
        return None if found is None else self.same(found, self.truth(answer))

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({settings})"


class ExactAnswer(Checker):
    """The whole response is the answer.

    Args:
        ignore_case: Whether capitals do not count. White space never does, but for whether there is some.
    """

    def __init__(self, ignore_case: bool = False) -> None:
        self.ignore_case = ignore_case

    def extract(self, response: str) -> str | None:
        """The response without white space at its ends; None where nothing is left."""
        return response.strip() or None

    def same(self, found: str, answer: str) -> bool:
        """Letter by letter."""
        texts = [" ".join(text.split()) for text in (found, answer)]
        if self.ignore_case:
            texts = [text.casefold() for text in texts]
        return texts[0] == texts[1]


class PlainAnswer(Checker):
    """The whole response is the answer: compared as numbers where both are, else as words.

    Words may differ in capitals, and in dollar signs, quotes and a full stop around them. A box around all of it, or
    brackets around a single letter, do not count. Where both numbers have a unit, 5 cm or 2 apples, it has to be the
    same; units are not converted.

    Args:
        tolerance: See `NumericAnswer`.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = _checked(tolerance)

    def extract(self, response: str) -> str | None:
        """The response without white space at its ends; None where nothing is left."""
        return response.strip() or None

    def same(self, found: str, answer: str) -> bool:
        """As numbers, or as words."""
        return self.agree(self.parse(found), self.parse(answer))

    def parse(self, found: str) -> tuple[Number | None, str]:
        """The number, and the words."""
        bare = _bare(found)
        return whole_number(bare), _words(bare)

    def agree(self, found: tuple[Number | None, str], answer: tuple[Number | None, str]) -> bool:
        """As numbers, or as words."""
        one, true = found[0], answer[0]
        if one is None or true is None:
            return found[1] == answer[1]
        return (not one.unit or not true.unit or one.unit == true.unit) and one.equals(true, self.tolerance)


class NumericAnswer(Checker):
    """The last number of the response is the answer.

    Read are signs, thousands with commas or blanks, decimals, powers, fractions (also LaTeX's) and percent; units
    behind a number are passed over. A response whose last term is no number, such as one with a root, has no answer.

    Args:
        tolerance: How far a number may be off, as a share of the true one; 0: exactly equal, 1/2 being 0.5.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = _checked(tolerance)

    def extract(self, response: str) -> str | None:
        """The last number, as it is written."""
        found = last_number(response)
        return None if found is None else found.text

    def same(self, found: str, answer: str) -> bool:
        """By value; a true answer that is no number equals none."""
        return self.agree(self.parse(found), self.parse(answer))

    def parse(self, found: str) -> Number | None:
        """The number."""
        return last_number(found)

    def agree(self, found: Number | None, answer: Number | None) -> bool:
        """By value."""
        return found is not None and answer is not None and found.equals(answer, self.tolerance)


class _Marked(Checker):
    """The answer stands at a marked place; what is there, an inner checker judges."""

    inner: Checker

    def same(self, found: str, answer: str) -> bool:
        """By the inner checker."""
        return self.inner.same(found, answer)

    def parse(self, found: str) -> Any:
        """As the inner checker does."""
        return self.inner.parse(found)

    def agree(self, found: Any, answer: Any) -> bool:
        """By the inner checker."""
        return self.inner.agree(found, answer)

    def truth(self, text: str) -> str:
        """What stands at the marked place; without one, what the inner checker makes of the text."""
        found = self.extract(text)
        return self.inner.truth(text) if found is None else found


class BoxedAnswer(_Marked):
    r"""The answer stands in the last `\boxed{…}`, which may hold further braces.

    Args:
        inner: Judges what stands in the box; None: `PlainAnswer()`.
    """

    def __init__(self, inner: Checker | None = None) -> None:
        self.inner = inner or PlainAnswer()

    def extract(self, response: str) -> str | None:
        """What stands in the box; None without one that is closed."""
        begin = response.rfind("\\boxed{")
        if begin < 0:
            return None
        first, depth, place = begin + len("\\boxed{"), 1, begin + len("\\boxed{")
        while place < len(response) and depth:
            letter = response[place]
            if letter == "\\":  # a brace behind a backslash is a letter
                place += 1
            depth += (letter == "{") - (letter == "}")
            place += 1
        return None if depth else self.inner.extract(response[first : place - 1])


_AROUND = "*_ \t\r\f\v\u00a0\u3000"
"""Emphasis and blanks behind an answer."""

FINAL = ("Final answer:", "答案:", "Answer:")
"""What a last line with the answer begins with."""


class FinalAnswer(_Marked):
    """The answer stands behind a marker on the last line.

    Capitals, a wide colon and signs of emphasis around the marker do not count.

    Args:
        inner: Judges what stands behind the marker; None: `PlainAnswer()`.
        markers: What the line begins with, colon included.
    """

    def __init__(self, inner: Checker | None = None, markers: Sequence[str] = FINAL) -> None:
        if not markers or not all(marker.strip() for marker in markers):
            raise ValueError(f"the markers of a final answer must be texts, got {list(markers)}")
        self.inner, self.markers = inner or PlainAnswer(), list(markers)
        words = "|".join(re.escape(marker.strip().removesuffix(":")) for marker in markers)
        self._line = re.compile(rf"[\s*_#>]*(?:{words})[\s*_]*[:：][\s*_]*", re.IGNORECASE)

    def extract(self, response: str) -> str | None:
        """What stands behind the marker; None where the last line has none."""
        parts = self.split(response)
        return None if parts is None else self.inner.extract(parts[1])

    def split(self, response: str) -> tuple[str, str] | None:
        """The reasoning, and what stands behind the marker; None where the last line has none."""
        before, _, last = response.rstrip().rpartition("\n")
        found = self._line.match(last)
        rest = last[found.end() :].rstrip(_AROUND) if found else ""
        return (before.rstrip(), rest) if rest else None


class MultipleChoice(Checker):
    """The answer is the letter of an option, see `choices.stated`; else the one letter that stands alone.

    Args:
        letters: Those that may be chosen.
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        if not letters.isalpha():
            raise ValueError(f"the letters of a choice must be letters, got {letters!r}")
        self.letters = letters

    def extract(self, response: str) -> str | None:
        """The letter, as a capital."""
        said, allowed = spoken(response), self.letters.upper()
        return stated(said, allowed) or alone(said, allowed)

    def same(self, found: str, answer: str) -> bool:
        """The same letter."""
        return found.strip().upper() == answer.strip().upper()


_DRESSED = re.compile(r"\$*\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}\$*|\(([A-Za-z])\)")


def _bare(text: str) -> str:
    r"""An answer without `\boxed{}` around all of it, or brackets around its one letter."""
    found = _DRESSED.fullmatch(text.strip().rstrip("."))
    return (found[1] or found[2] or text) if found else text


def _words(text: str) -> str:
    text = re.sub(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    return " ".join(text.strip(" \t\n$\"'`*").rstrip(".").casefold().split())


def _checked(tolerance: float) -> float:
    if not 0 <= tolerance < 1:
        raise ValueError(f"the tolerance is a share from 0 to below 1, got {tolerance}")
    return tolerance
