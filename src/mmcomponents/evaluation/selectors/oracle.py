"""Upper bound of all selectors."""

from __future__ import annotations

from mmcomponents.evaluation.selectors.base import Candidates, Selector, best


class Oracle(Selector):
    """Chooses a right candidate if there is one: the upper bound of all selectors, also called pass@N."""

    def choose(self, candidates: Candidates) -> int:
        """Returns the candidate with the highest mark, the first of equal ones.

        Raises:
            ValueError: The candidates have no marks.
        """
        if not candidates.marks:
            raise ValueError("Oracle needs the candidates' marks")
        return best(candidates.marks)
