"""Exact match metrics."""

from __future__ import annotations

from mmcomponents.evaluation.metrics.base import Metric, Target


def exact_match(answer: str, prediction: str) -> bool:
    """Whether two answers are equal, ignoring surrounding white space and trailing white space of lines."""
    return _normal(answer) == _normal(prediction)


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class ExactMatch(Metric):
    """Fraction of responses equal to a reference, ignoring case and the white space around lines.

    As `exact_match` of the package evaluate with `ignore_case`, which lmms-eval uses.
    """

    title = "exact match"

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the response case-folded and without the ignored white space; None if it is empty."""
        return _normal(response).casefold() or None

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0."""
        return float(any(exact_match(one.casefold(), response.casefold()) for one in target.references))


class ExactStrict(Metric):
    """Fraction of responses equal to a reference according to `exact_match`, with case, as in `mmcomponents test`."""

    title = "strict exact match"

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the response without the ignored white space; None if it is empty."""
        return _normal(response) or None

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0."""
        return float(any(exact_match(reference, response) for reference in target.references))
