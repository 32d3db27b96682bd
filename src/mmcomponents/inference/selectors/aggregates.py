"""From the scores of a solution's steps to one score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Aggregate(ABC):
    """Makes one score of those of the steps. A solution without steps is worse than any other."""

    def __call__(self, steps: Sequence[float]) -> float:
        """The score of a solution.

        Args:
            steps: Scores of its steps.
        """
        return self.reduce(steps) if steps else float("-inf")

    @abstractmethod
    def reduce(self, steps: Sequence[float]) -> float:
        """The score of a solution with one step at least."""


class Mean(Aggregate):
    """The mean over the steps: what VisualPRM's authors found best (arXiv 2503.10291)."""

    def reduce(self, steps: Sequence[float]) -> float:
        """The mean."""
        return sum(steps) / len(steps)


class Min(Aggregate):
    """The weakest step."""

    def reduce(self, steps: Sequence[float]) -> float:
        """The smallest score."""
        return min(steps)


class Max(Aggregate):
    """The strongest step."""

    def reduce(self, steps: Sequence[float]) -> float:
        """The largest score."""
        return max(steps)


AGGREGATES: dict[str, type[Aggregate]] = {"mean": Mean, "min": Min, "max": Max}
"""By their names on the command line."""
