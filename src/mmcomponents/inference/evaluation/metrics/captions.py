"""Captions: BLEU and ROUGE by torchmetrics. CIDEr is not there, and is left out.

Words are what white space parts; of Chinese and Japanese each character is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from mmcomponents.inference.evaluation.metrics.base import Metric, Target, normal

_CJK = re.compile("([\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff])")
"""Signs of Chinese and Japanese, their punctuation too; Korean puts blanks between words."""
_NO_WORD = re.compile(r"[\W_]+")


def spaced(text: str) -> str:
    """A text without case, with single blanks between words, and around each sign of Chinese or Japanese."""
    return normal(_CJK.sub(r" \1 ", text))


def letters(text: str) -> str:
    """A text in which letters and digits of all scripts are left; ROUGE's own way leaves those of English alone."""
    return _NO_WORD.sub(" ", spaced(text))


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
        return float(bleu_score([spaced(response)], [[spaced(r) for r in target.references]], smooth=True))

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """BLEU-4 of the corpus."""
        return float(bleu_score([spaced(r) for r in responses], [[spaced(r) for r in t.references] for t in targets]))


class ROUGE(_Caption):
    """ROUGE-L F1 against the nearest reference (Lin, 2004), the mean over the responses."""

    title = "ROUGE-L"

    def score(self, response: str, target: Target) -> float:
        """ROUGE-L F1 of one response."""
        if not response.strip():
            return 0.0
        # rougeL alone: the variant by sentences needs nltk
        found = rouge_score(
            [response], [list(target.references)], normalizer=letters, tokenizer=str.split, rouge_keys=("rougeL",)
        )
        return float(found["rougeL_fmeasure"])
