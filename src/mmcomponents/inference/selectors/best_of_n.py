"""The answer that a critic likes best."""

from __future__ import annotations

from mmcomponents.inference.selectors.aggregates import Aggregate, Mean
from mmcomponents.inference.selectors.base import Candidates, Selector, best


class BestOfN(Selector):
    """Takes the answer with the highest score of a critic (best-of-N; VisualPRM, arXiv 2503.10291).

    Args:
        critic: Whose scores: "process" or "outcome", or another name under which there are some.
        aggregate: What makes one score of those of the steps; None: the mean.
    """

    def __init__(self, critic: str = "process", aggregate: Aggregate | None = None) -> None:
        self.critic = critic
        self.aggregate = aggregate or Mean()

    def choose(self, candidates: Candidates) -> int:
        """The candidate with the highest score, of equal ones the first.

        Raises:
            ValueError: There are no scores of the critic.
        """
        if self.critic not in candidates.scores:
            known = ", ".join(candidates.scores) or "none"
            raise ValueError(f"BestOfN needs scores of the critic {self.critic!r}; there are those of: {known}")
        return best([self.aggregate(steps) for steps in candidates.scores[self.critic]])
