r"""Checkers, which extract the answer from a response and compare it with the reference answer.

A checker is called with a response and the reference answer. It returns None if the response contains no answer, which
means that it violates the required format. The formats are those of MMPR (arXiv 2411.10442): a last line that starts
with "Final answer:", and `\boxed{…}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mmcomponents.evaluation.choices import alone, spoken, stated
from mmcomponents.evaluation.numbers import Number, last_number, whole_number
from mmcomponents.synthesis.checker import Checker


class ExactAnswer(Checker):
    """Compares the complete response with the answer as text.

    Args:
        ignore_case: Whether to ignore case. Runs of white space always compare as one space.
    """

    def __init__(self, ignore_case: bool = False) -> None:
        self.ignore_case = ignore_case

    def extract(self, response: str) -> str | None:
        """Returns the response without surrounding white space; None if it is empty."""
        return response.strip() or None

    def same(self, found: str, answer: str) -> bool:
        """Whether the texts are equal after normalization of white space and, optionally, case."""
        texts = [" ".join(text.split()) for text in (found, answer)]
        if self.ignore_case:
            texts = [text.casefold() for text in texts]
        return texts[0] == texts[1]


class PlainAnswer(Checker):
    r"""Compares the complete response with the answer: as numbers if both are numbers, else as words.

    The comparison of words ignores case, and dollar signs, quotes and a full stop around them. `\boxed{}` around the
    complete response and brackets around a single letter are ignored. If both numbers have a unit, as in 5 cm or
    2 apples, the units must be equal; they are not converted. Formulas are compared without spaces, sizes of brackets
    and braces around a single character; they are not computed.

    Args:
        tolerance: See `NumericAnswer`.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = _checked(tolerance)

    def extract(self, response: str) -> str | None:
        """Returns the response without surrounding white space; None if it is empty."""
        return response.strip() or None

    def same(self, found: str, answer: str) -> bool:
        """Whether the answers are equal as numbers or as words."""
        return self.agree(self.parse(found), self.parse(answer))

    def parse(self, found: str) -> tuple[Number | None, str, str]:
        """Returns the number, None if the answer is not a number, the normalized words, and the normalized formula."""
        bare = _bare(found)
        return whole_number(bare), _words(bare), _formula(bare)

    def agree(self, found: tuple[Number | None, str, str], answer: tuple[Number | None, str, str]) -> bool:
        """Whether the answers are equal as numbers, words or formulas."""
        one, true = found[0], answer[0]
        if one is None or true is None:
            return found[1] == answer[1] or (bool(found[2]) and found[2] == answer[2])
        return (not one.unit or not true.unit or one.unit == true.unit) and one.equals(true, self.tolerance)


class NumericAnswer(Checker):
    """Compares the last number of the response with the answer.

    Supports signs, thousands separators (commas or spaces), decimals, powers, fractions (including LaTeX) and percent;
    units after a number are ignored. A response whose last term is not a number, such as a root, has no answer.

    Args:
        tolerance: Largest relative error; 0: the values must be equal, 1/2 equals 0.5.
    """

    def __init__(self, tolerance: float = 0.0) -> None:
        self.tolerance = _checked(tolerance)

    def extract(self, response: str) -> str | None:
        """Returns the last number as written; None if there is none."""
        found = last_number(response)
        return None if found is None else found.text

    def same(self, found: str, answer: str) -> bool:
        """Whether the values are equal; False if the reference answer is not a number."""
        return self.agree(self.parse(found), self.parse(answer))

    def parse(self, found: str) -> Number | None:
        """Returns the last number of the text."""
        return last_number(found)

    def agree(self, found: Number | None, answer: Number | None) -> bool:
        """Whether the values are equal within the tolerance."""
        return found is not None and answer is not None and found.equals(answer, self.tolerance)


class _Marked(Checker):
    """Base class of checkers that extract a marked part of the response and compare it with an inner checker."""

    inner: Checker

    def same(self, found: str, answer: str) -> bool:
        """Compares with the inner checker."""
        return self.inner.same(found, answer)

    def parse(self, found: str) -> Any:
        """Parses with the inner checker."""
        return self.inner.parse(found)

    def agree(self, found: Any, answer: Any) -> bool:
        """Compares with the inner checker."""
        return self.inner.agree(found, answer)

    def truth(self, text: str) -> str:
        """Returns the marked part; without one, the inner checker's answer of the text."""
        found = self.extract(text)
        return self.inner.truth(text) if found is None else found


class BoxedAnswer(_Marked):
    r"""Checks the content of the last `\boxed{…}`, which may contain nested braces.

    Args:
        inner: Checker of the content; None: `PlainAnswer()`.
    """

    def __init__(self, inner: Checker | None = None) -> None:
        self.inner = inner or PlainAnswer()

    def extract(self, response: str) -> str | None:
        """Returns the content of the box; None if there is no closed box."""
        begin = response.rfind("\\boxed{")
        if begin < 0:
            return None
        first, depth, place = begin + len("\\boxed{"), 1, begin + len("\\boxed{")
        while place < len(response) and depth:
            letter = response[place]
            if letter == "\\":  # an escaped brace is a literal character
                place += 1
            depth += (letter == "{") - (letter == "}")
            place += 1
        return None if depth else self.inner.extract(response[first : place - 1])


_AROUND = "*_ \t\r\f\v\u00a0\u3000"
"""Emphasis marks and white space after an answer."""

FINAL = ("Final answer:", "答案:", "Answer:")
"""Markers that start a last line with the answer."""


class FinalAnswer(_Marked):
    """Checks the text after a marker on the last line.

    Case, a full-width colon and emphasis marks around the marker are ignored.

    Args:
        inner: Checker of the text after the marker; None: `PlainAnswer()`.
        markers: Strings that start the line, including the colon.
    """

    def __init__(self, inner: Checker | None = None, markers: Sequence[str] = FINAL) -> None:
        if not markers or not all(marker.strip() for marker in markers):
            raise ValueError(f"markers must be non-empty strings, got {list(markers)}")
        self.inner, self.markers = inner or PlainAnswer(), list(markers)
        words = "|".join(re.escape(marker.strip().removesuffix(":")) for marker in markers)
        self._line = re.compile(rf"[\s*_#>]*(?:{words})[\s*_]*[:：][\s*_]*", re.IGNORECASE)

    def extract(self, response: str) -> str | None:
        """Returns the text after the marker; None if the last line has no marker."""
        parts = self.split(response)
        return None if parts is None else self.inner.extract(parts[1])

    def split(self, response: str) -> tuple[str, str] | None:
        """Returns the reasoning and the text after the marker; None if the last line has no marker."""
        before, _, last = response.rstrip().rpartition("\n")
        found = self._line.match(last)
        rest = last[found.end() :].rstrip(_AROUND) if found else ""
        return (before.rstrip(), rest) if rest else None


class MultipleChoice(Checker):
    """Compares the letter of the chosen option: see `choices.stated`, then `choices.alone`.

    Args:
        letters: Allowed letters.
    """

    def __init__(self, letters: str = "ABCDEFGHIJ") -> None:
        if not letters.isalpha():
            raise ValueError(f"letters must be alphabetic, got {letters!r}")
        self.letters = letters

    def extract(self, response: str) -> str | None:
        """Returns the upper-case letter; None if there is none."""
        text, allowed = spoken(response), self.letters.upper()
        return stated(text, allowed) or alone(text, allowed)

    def same(self, found: str, answer: str) -> bool:
        """Whether the letters are equal, ignoring case."""
        return found.strip().upper() == answer.strip().upper()


_TEXT = re.compile(r"\\(?:text|mathrm|mathbf)\s*\{([^{}]*)\}")
_DRESSED = re.compile(r"\$*\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}\$*|\(([A-Za-z])\)")


def _bare(text: str) -> str:
    r"""Removes `\boxed{}` around a complete answer, or brackets around a single letter."""
    plain = text.strip().rstrip(".").strip("$ ")
    for begin, end in (("\\(", "\\)"), ("\\[", "\\]")):  # LaTeX's marks of a formula
        if plain.startswith(begin) and plain.endswith(end):
            text = plain = plain[2:-2].strip()
    if wrapped := _TEXT.fullmatch(plain):
        text = plain = wrapped[1]
    found = _DRESSED.fullmatch(plain)
    return (found[1] or found[2] or text) if found else text


def _words(text: str) -> str:
    text = _TEXT.sub(r"\1", text)
    return " ".join(text.strip(" \t\n$\"'`*").rstrip(".").casefold().split())


def _formula(text: str) -> str:
    """Returns a formula without what does not change its meaning; "" for a text without any sign of a formula."""
    text = _TEXT.sub(r"\1", text).replace("π", r"\pi ").replace("√", r"\sqrt")
    text = re.sub(r"\\(?:left|right|displaystyle)(?![a-z])|\\[,!;: ]|[$~]", "", text).strip(" .\n\t`*")
    bare = re.sub(r"\\[a-zA-Z]+", "", text)
    if not re.search(r"[\\^_+=()\[\]{}/*<>-]", text) or re.search(r"[^\W\d_]{2}", bare):
        return ""  # words
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\{\s*(\w)\s*\}", r"\1", text)
    return "".join(re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])", r"\1{}", text).split())


def _checked(tolerance: float) -> float:
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and less than 1, got {tolerance}")
    return tolerance
