"""Selection of the first candidate."""

from __future__ import annotations

from mmcomponents.evaluation.selectors.base import Candidates, Selector


class First(Selector):
    """Chooses the first candidate, the greedy one: the baseline without selection."""

    def choose(self, candidates: Candidates) -> int:
        """Returns 0."""
        return 0
