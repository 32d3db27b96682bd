"""Average normalised Levenshtein similarity, for questions about documents."""

from __future__ import annotations

from torchmetrics.functional.text import edit_distance

from mmcomponents.inference.evaluation.metrics.base import Metric, Target, final, normal


class ANLS(Metric):
    """Similarity by edit distance, 0 where it is too small; the nearest reference counts (DocVQA, arXiv 2007.00398).

    Args:
        threshold: Distances from this share of the longer text on give 0.
    """

    title = "ANLS"

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is a share above 0, at most 1, got {threshold}")
        self.threshold = threshold

    def extract(self, response: str, target: Target) -> str | None:
        """The response without case and spare white space."""
        return normal(final(response)) or None

    def score(self, response: str, target: Target) -> float:
        """The similarity to the nearest reference."""
        return max(self._similarity(normal(final(response)), normal(reference)) for reference in target.references)

    def _similarity(self, found: str, wanted: str) -> float:
        longer = max(len(found), len(wanted))
        if not longer:
            return 1.0
        # Texts that differ this much in length are too far apart, whatever they say.
        if abs(len(found) - len(wanted)) >= self.threshold * longer:
            return 0.0
        distance = float(edit_distance([found], [wanted], reduction="sum")) / longer
        return 1.0 - distance if distance < self.threshold else 0.0
