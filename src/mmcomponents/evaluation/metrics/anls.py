"""Average normalized Levenshtein similarity, for document question answering."""

from __future__ import annotations

from torchmetrics.functional.text import edit_distance

from mmcomponents.evaluation.metrics.base import Metric, Target, final, normal


class ANLS(Metric):
    """1 minus the normalized edit distance to the nearest reference, 0 above a distance (DocVQA, arXiv 2007.00398).

    Args:
        threshold: Distances of at least this fraction of the longer text score 0.
    """

    title = "ANLS"

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be greater than 0 and at most 1, got {threshold}")
        self.threshold = threshold

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the final answer, case-folded and with single spaces."""
        return normal(final(response)) or None

    def score(self, response: str, target: Target) -> float:
        """Returns the similarity to the nearest reference."""
        return max(self._similarity(normal(final(response)), normal(reference)) for reference in target.references)

    def _similarity(self, found: str, wanted: str) -> float:
        longer = max(len(found), len(wanted))
        if not longer:
            return 1.0
        # the difference in length is a lower bound of the distance
        if abs(len(found) - len(wanted)) >= self.threshold * longer:
            return 0.0
        distance = float(edit_distance([found], [wanted], reduction="sum")) / longer
        return 1.0 - distance if distance < self.threshold else 0.0
