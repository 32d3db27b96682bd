"""Takes the first answer."""

from __future__ import annotations

from mmcomponents.inference.selectors.base import Candidates, Selector


class First(Selector):
    """Takes the first answer, the greedy one: what the model says without any selection."""

    def choose(self, candidates: Candidates) -> int:
        """The first candidate."""
        return 0
