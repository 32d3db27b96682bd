"""Relaxed accuracy, for chart question answering."""

from __future__ import annotations

import math

from mmcomponents.evaluation.metrics.base import Metric, Target, final, normal


class RelaxedAccuracy(Metric):
    """Accuracy with a relative tolerance for numbers; other answers must be equal (ChartQA, arXiv 2203.10244).

    Case is ignored. A number with a percent sign is divided by 100. A reference of 0 is compared as text, as the
    relative error is undefined.

    Args:
        tolerance: Largest relative error.
    """

    title = "relaxed accuracy"

    def __init__(self, tolerance: float = 0.05) -> None:
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance must be at least 0 and less than 1, got {tolerance}")
        self.tolerance = tolerance

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the final answer, case-folded and with single spaces; a number in Python's notation."""
        number = _number(final(response))
        return (normal(final(response)) or None) if number is None else repr(number)

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0."""
        return float(any(self._agree(response, reference) for reference in target.references))

    def _agree(self, response: str, reference: str) -> bool:
        found, wanted = _number(final(response)), _number(reference)
        if found is None or not wanted:
            return normal(final(response)) == normal(reference)
        return abs(found - wanted) <= self.tolerance * abs(wanted)


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        number = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
