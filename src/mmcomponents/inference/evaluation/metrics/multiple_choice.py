"""Multiple choice: the letter that a response comes to."""

from __future__ import annotations

import re

from mmcomponents.inference.choices import alone, only_letter, spoken, stated
from mmcomponents.inference.evaluation.metrics.base import Metric, Target, normal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MultipleChoice(Metric):
    """The letter of the right option. A response may be a letter, an option's text, or sentences that come to one.

    In this order: a letter that is stated, see `choices.stated`; the text of exactly one option; exactly one letter
    that stands alone and is not denied. What stands between `<think>` and `</think>` does not count.
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
    only = only_letter(text)
    if only is not None and only in allowed:
        return only
    return _by_text(text, target)


def _by_text(text: str, target: Target) -> str | None:
    """The one option whose text this is."""
    plain = normal(text).rstrip(".")
    same = [letter for letter, option in target.options.items() if normal(option).rstrip(".") == plain]
    return same[0] if len(same) == 1 else None


def _letter(response: str, target: Target) -> str | None:
    said, allowed = spoken(response), target.options or LETTERS
    letter = stated(said, allowed) or _by_text(said, target) or _mentioned(said, target)
    return letter or alone(said, allowed)


def _mentioned(response: str, target: Target) -> str | None:
    """The one option whose text stands in the response as words of its own."""
    text = normal(response)
    found = [
        letter
        for letter, option in target.options.items()
        if normal(option) and re.search(rf"(?<!\w){re.escape(normal(option))}(?!\w)", text)
    ]
    return found[0] if len(found) == 1 else None
