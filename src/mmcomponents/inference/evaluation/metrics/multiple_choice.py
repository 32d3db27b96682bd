"""Multiple choice: the letter that a response comes to."""

from __future__ import annotations

import re
from collections.abc import Container

from mmcomponents.inference.evaluation.metrics.base import Metric, Target, normal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_ONLY = re.compile(r"[\s(\[*\"']*([A-Za-z])[\s)\]*\"'.:,]*")
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*\(?([A-Za-z])\)?[.:]?\s*\}")
_SAID = re.compile(
    r"(?:\b(?:answer|choice|option)\b(?:\s+is)?|答案(?:是|为)?)\s*[:：]?\s*(?:option\s+)?[*(\[\"']*([A-Za-z])(?![A-Za-z0-9'])",
    re.I,
)
_LED = re.compile(r"\s*(?:\(([A-Za-z])\)|\**([A-Z])\**\s*[).:,](?![A-Za-z0-9]))")
_ALONE = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")
_NOUN = re.compile(r"\s+(?!(?:or|and|is|was|because|since|as|but|seems|looks|must|would|should)\b)[a-z]")


class MultipleChoice(Metric):
    """The letter of the right option. A response may be a letter, an option's text, or sentences that come to one.

    In this order: the whole response is a letter; a letter in a box, or after "answer", where the last counts; a letter
    with a bracket or a stop at the begin; the text of exactly one option; exactly one letter that stands alone.
    """

    title = "accuracy of choices"

    def extract(self, response: str, target: Target) -> str | None:
        """The letter; None where none can be told."""
        return _letter(response, target)

    def score(self, response: str, target: Target) -> float:
        """1 or 0; a response without a letter is wrong."""
        found = _letter(response, target)
        return float(found is not None and found in {_reference(r, target) for r in target.references})

    def check(self, target: Target) -> str:
        """References have to be letters, or texts of options."""
        for reference in target.references:
            if _reference(reference, target) is None:
                known = ", ".join(target.options) or "one letter"
                return f"the answer {reference!r:.60} is no option ({known})"
        return ""


def _reference(text: str, target: Target) -> str | None:
    allowed = target.options or LETTERS
    only = _ONLY.fullmatch(text)
    if only and only[1].upper() in allowed:
        return only[1].upper()
    return _by_text(text, target)


def _by_text(text: str, target: Target) -> str | None:
    """The one option whose text this is."""
    plain = normal(text).rstrip(".")
    same = [letter for letter, option in target.options.items() if normal(option).rstrip(".") == plain]
    return same[0] if len(same) == 1 else None


def _letter(response: str, target: Target) -> str | None:
    allowed = target.options or LETTERS
    for found in (_whole(response), _last(_BOXED, response, allowed), _last(_SAID, response, allowed), _led(response)):
        if found is not None and found in allowed:
            return found
    return _by_text(response, target) or _mentioned(response, target) or _alone(response, target)


def _whole(response: str) -> str | None:
    only = _ONLY.fullmatch(response)
    return only[1].upper() if only else None


def _is_word(match: re.Match[str]) -> bool:
    """Whether a letter is an article or a pronoun, as in "The answer is a dog"."""
    return match[1] in "aAI" and _NOUN.match(match.string, match.end()) is not None


def _last(pattern: re.Pattern[str], response: str, allowed: Container[str]) -> str | None:
    found = None
    for match in pattern.finditer(response):
        letter = match[1]
        if letter.upper() in allowed and not _is_word(match):
            found = letter.upper()
    return found


def _led(response: str) -> str | None:
    led = _LED.match(response)
    return (led[1] or led[2]).upper() if led else None


def _mentioned(response: str, target: Target) -> str | None:
    """The one option whose text stands in the response as words of its own."""
    text = normal(response)
    found = [
        letter
        for letter, option in target.options.items()
        if normal(option) and re.search(rf"(?<!\w){re.escape(normal(option))}(?!\w)", text)
    ]
    return found[0] if len(found) == 1 else None


def _alone(response: str, target: Target) -> str | None:
    letters = {match[1] for match in _ALONE.finditer(response) if not _is_word(match)} & set(target.options or LETTERS)
    return letters.pop() if len(letters) == 1 else None
