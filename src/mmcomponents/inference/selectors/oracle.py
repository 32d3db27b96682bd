"""The best that a selector could do."""

from __future__ import annotations

from mmcomponents.inference.selectors.base import Candidates, Selector, best


class Oracle(Selector):
    """Takes a right answer if there is one: the bound of all selectors, also called pass@N."""

    def choose(self, candidates: Candidates) -> int:
        """The candidate that is most right, of equal ones the first.

        Raises:
            ValueError: It is not known which candidates are right.
        """
        if not candidates.marks:
            raise ValueError("Oracle needs to know which candidates are right")
        return best(candidates.marks)
