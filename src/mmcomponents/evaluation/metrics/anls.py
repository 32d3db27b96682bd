"""Average normalized Levenshtein similarity, for document question answering."""

from __future__ import annotations

from torchmetrics.functional.text import edit_distance

from mmcomponents.evaluation.metrics.base import Metric, Target, final


class ANLS(Metric):
    """1 minus the normalized edit distance to the nearest reference, 0 above a distance.

    The figure of DocVQA and InfographicVQA (arXiv 2007.00398; the scorer of the challenges): an answer at exactly the
    threshold counts. Case and spaces are ignored.

    Args:
        threshold: Distances of more than this fraction of the longer text score 0.
    """

    title = "ANLS"

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be greater than 0 and at most 1, got {threshold}")
        self.threshold = threshold

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the final answer, in lower case and with single spaces."""
        return _plain(final(response)) or None

    def score(self, response: str, target: Target) -> float:
        """Returns the similarity to the nearest reference."""
        return max(self._similarity(_plain(final(response)), _plain(reference)) for reference in target.references)

    def _similarity(self, found: str, wanted: str) -> float:
        longer = max(len(found), len(wanted))
        if not longer:
            return 1.0
        # the difference in length is a lower bound of the distance
        if abs(len(found) - len(wanted)) > self.threshold * longer:
            return 0.0
        distance = float(edit_distance([found], [wanted], reduction="sum")) / longer
        return 1.0 - distance if distance <= self.threshold else 0.0


def _plain(text: str) -> str:
    return " ".join(text.split()).lower()
