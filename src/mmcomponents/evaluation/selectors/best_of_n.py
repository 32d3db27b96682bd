"""Best-of-N selection."""

from __future__ import annotations

from mmcomponents.evaluation.selectors.aggregates import Aggregate, Mean
from mmcomponents.evaluation.selectors.base import Candidates, Selector, best


class BestOfN(Selector):
    """Chooses the candidate with the highest score of a critic (best-of-N; VisualPRM, arXiv 2503.10291).

    Args:
        critic: Name of the critic: "process", "outcome", or another key of `Candidates.scores`.
        aggregate: Aggregates the step scores; None: `Mean()`.
    """

    def __init__(self, critic: str = "process", aggregate: Aggregate | None = None) -> None:
        self.critic = critic
        self.aggregate = aggregate or Mean()

    def choose(self, candidates: Candidates) -> int:
        """Returns the candidate with the highest score, the first of equal ones.

        Raises:
            ValueError: The critic has no scores.
        """
        if self.critic not in candidates.scores:
            known = ", ".join(candidates.scores) or "none"
            raise ValueError(
                f"BestOfN needs scores of the critic {self.critic!r}; the critics with scores are: {known}"
            )
        return best([self.aggregate(steps) for steps in candidates.scores[self.critic]])
