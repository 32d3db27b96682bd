"""Exact match."""

from __future__ import annotations

from mmcomponents.inference.evaluation.metrics.base import Metric, Target
from mmcomponents.inference.scoring import exact_match


class ExactMatch(Metric):
    """The whole response is the reference but for white space at ends of lines: what `mmcomponents test` counts."""

    title = "exact match"

    def extract(self, response: str, target: Target) -> str | None:
        """The response without white space at the ends of its lines; None for an empty one."""
        return "\n".join(line.rstrip() for line in response.strip().splitlines()) or None

    def score(self, response: str, target: Target) -> float:
        """1 or 0."""
        return float(any(exact_match(reference, response) for reference in target.references))
