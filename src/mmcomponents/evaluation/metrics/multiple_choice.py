"""Multiple-choice accuracy."""

from __future__ import annotations

import re

from mmcomponents.evaluation.choices import alone, only_letter, spoken, stated
from mmcomponents.evaluation.metrics.base import Metric, Target, final, normal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MultipleChoice(Metric):
    """Accuracy of the chosen option. A response may be a letter, an option's text, or sentences that state one.

    The first match counts: a stated letter, see `choices.stated`; the text of exactly one option; exactly one isolated
    letter that is not denied. Letters of a list are no answer. Text between `<think>` and `</think>` is ignored. Where
    no letter is found, VLMEvalKit asks a language model; here the response is wrong.
    """

    title = "multiple-choice accuracy"

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the letter; None if no option is chosen."""
        return _letter(response, target)

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0; a response without a letter is wrong."""
        found = _letter(response, target)
        return float(found is not None and found in {_reference(r, target) for r in target.references})

    def check(self, target: Target) -> str:
        """Returns an error message if a reference is neither a letter nor the text of an option."""
        for reference in target.references:
            if _reference(reference, target) is None:
                known = ", ".join(target.options) or "one letter"
                return f"the answer {reference!r:.60} is not an option ({known})"
        return ""


def _reference(text: str, target: Target) -> str | None:
    allowed = target.options or LETTERS
    only = only_letter(text)
    if only is not None and only in allowed:
        return only
    return _by_text(text, target)


def _by_text(text: str, target: Target) -> str | None:
    """Returns the only option with this text."""
    plain = normal(text).rstrip(".")
    same = [letter for letter, option in target.options.items() if normal(option).rstrip(".") == plain]
    return same[0] if len(same) == 1 else None


def _letter(response: str, target: Target) -> str | None:
    text = spoken(response)
    marked = final(text)  # the last line or the last box, which may hold the text of an option
    return (_found(marked, target) if marked != text else None) or _found(text, target)


def _found(text: str, target: Target) -> str | None:
    allowed = target.options or LETTERS
    letter = stated(text, allowed) or _by_text(text, target) or _mentioned(text, target)
    return letter or alone(text, allowed)


def _mentioned(response: str, target: Target) -> str | None:
    """Returns the only option whose text occurs in the response as separate words, and is not denied."""
    text = normal(response)
    found = [letter for letter, option in target.options.items() if _occurs(normal(option), text)]
    return found[0] if len(found) == 1 else None


def _occurs(option: str, text: str) -> bool:
    if not option:
        return False
    if _CJK.search(option):  # Chinese and Japanese write no spaces
        places = re.finditer(re.escape(option), text)
    else:  # 5 is not within 0.5, -5 or 5.2
        places = re.finditer(rf"(?<![\w.,])(?<![-−]){re.escape(option)}(?!\w|[.,]\d)", text)
    return any(_DENIED.search(text[max(0, place.start() - 20) : place.start()]) is None for place in places)


_CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_DENIED = re.compile(r"(?:\b(?:not|no|never|neither|nor)|n't|不是|没有|并非)\s*(?:(?:a|an|the)\s+)?$")
"""Before the text of an option: it is denied."""
