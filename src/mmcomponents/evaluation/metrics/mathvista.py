"""Accuracy of MathVista."""

from __future__ import annotations

import re
from fractions import Fraction

from mmcomponents.evaluation.metrics.base import Metric, Target, final
from mmcomponents.evaluation.metrics.multiple_choice import MultipleChoice
from mmcomponents.evaluation.numbers import last_number

_NUMBER = re.compile(r"-?\d+(?:\.(?P<decimals>\d+))?")


class MathVista(Metric):
    """Accuracy as MathVista's scorer computes it from an extracted answer (arXiv 2310.02255, `calculate_score.py`).

    If the reference is an integer, the answer is cut to one (3.7 is 3); if it has decimals, the answer is rounded to as
    many. Other references must be equal letter by letter; questions with options are scored like `MultipleChoice`. The
    scorer lets a language model extract the answer; here it is the last number of the final answer.
    """

    title = "MathVista accuracy"

    def __init__(self) -> None:
        self.choice = MultipleChoice()

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the letter, the number in the precision of the first reference, or the final answer."""
        if target.options:
            return self.choice.extract(response, target)
        precision = _precision(target.references[0]) if target.references else None
        if precision is None:
            return final(response).strip() or None
        number = last_number(final(response))
        if number is None:
            return None
        value = round(number.value, precision) if precision else Fraction(int(number.value))
        return str(value.numerator) if value.denominator == 1 else str(float(value))

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0."""
        if target.options:
            return self.choice.score(response, target)
        for reference in target.references:
            found = self.extract(response, Target((reference,)))
            wanted = reference.strip()
            if found is not None and (found == wanted or (_precision(wanted) is not None and _equal(found, wanted))):
                return 1.0
        return 0.0

    def check(self, target: Target) -> str:
        """Returns an error message if a reference is not one of the options."""
        return self.choice.check(target) if target.options else ""


def _equal(found: str, wanted: str) -> bool:
    return Fraction(found) == Fraction(wanted)


def _precision(reference: str) -> int | None:
    """Returns the number of decimals of a reference; None if it is not a number."""
    found = _NUMBER.fullmatch(reference.strip())
    return len(found["decimals"] or "") if found else None
