"""Aggregation of step scores into one score of a solution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Aggregate(ABC):
    """Aggregates step scores. The score of a solution without steps is -inf."""

    def __call__(self, steps: Sequence[float]) -> float:
        """Returns the score of a solution.

        Args:
            steps: Scores of its steps.
        """
        return self.reduce(steps) if steps else float("-inf")

    @abstractmethod
    def reduce(self, steps: Sequence[float]) -> float:
        """Returns the score of a solution with at least one step."""


class Mean(Aggregate):
    """Mean over the steps, the best aggregate according to the authors of VisualPRM (arXiv 2503.10291)."""

    def reduce(self, steps: Sequence[float]) -> float:
        """Returns the mean."""
        return sum(steps) / len(steps)


class Min(Aggregate):
    """Minimum over the steps."""

    def reduce(self, steps: Sequence[float]) -> float:
        """Returns the smallest score."""
        return min(steps)


class Max(Aggregate):
    """Maximum over the steps."""

    def reduce(self, steps: Sequence[float]) -> float:
        """Returns the largest score."""
        return max(steps)


AGGREGATES: dict[str, type[Aggregate]] = {"mean": Mean, "min": Min, "max": Max}
"""Aggregates by their names on the command line."""
