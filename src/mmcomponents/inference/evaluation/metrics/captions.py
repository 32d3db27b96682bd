"""Captions: BLEU and ROUGE by torchmetrics. CIDEr is not there, and is left out."""

from __future__ import annotations

from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from mmcomponents.inference.evaluation.metrics.base import Metric, Target, normal


class _Caption(Metric):
    """What captions have in common: a response is compared as it is, without case."""

    def extract(self, response: str, target: Target) -> str | None:
        """The response without case and spare white space."""
        return normal(response) or None


class BLEU(_Caption):
    """BLEU-4 of all responses together (Papineni et al., ACL 2002), without case.

    One response alone is scored with smoothed counts, since hardly any has four words in a row in common.
    """

    title = "BLEU-4"

    def score(self, response: str, target: Target) -> float:
        """Smoothed BLEU-4 of one response."""
        if not response.strip():
            return 0.0
        return float(bleu_score([normal(response)], [[normal(r) for r in target.references]], smooth=True))

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """BLEU-4 of the corpus."""
        return float(bleu_score([normal(r) for r in responses], [[normal(r) for r in t.references] for t in targets]))


class ROUGE(_Caption):
    """ROUGE-L F1 against the nearest reference (Lin, 2004), the mean over the responses."""

    title = "ROUGE-L"

    def score(self, response: str, target: Target) -> float:
        """ROUGE-L F1 of one response."""
        if not response.strip():
            return 0.0
        # rougeL alone: the variant by sentences needs nltk
        found = rouge_score([response], [list(target.references)], rouge_keys=("rougeL",))
        return float(found["rougeL_fmeasure"])
