"""Caption metrics: BLEU and ROUGE from torchmetrics, which has no CIDEr.

Words are separated by white space; each Chinese or Japanese character is a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from mmcomponents.evaluation.metrics.base import Metric, Target, normal

_CJK = re.compile("([\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff])")
"""Chinese and Japanese characters, including punctuation. Korean separates words by spaces."""
_NO_WORD = re.compile(r"[\W_]+")


def spaced(text: str) -> str:
    """Returns a text case-folded, with single spaces between words and around Chinese and Japanese characters."""
    return normal(_CJK.sub(r" \1 ", text))


def letters(text: str) -> str:
    """Returns a text with only letters and digits of all scripts; the default of ROUGE keeps only a-z and 0-9."""
    return _NO_WORD.sub(" ", spaced(text))


class _Caption(Metric):
    """Base class of caption metrics: the complete response is compared, ignoring case."""

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the response case-folded and with single spaces."""
        return normal(response) or None


class BLEU(_Caption):
    """Corpus BLEU-4 (Papineni et al., ACL 2002), ignoring case.

    A single response is scored with smoothed counts, since few responses share a 4-gram with a reference.
    """

    title = "BLEU-4"

    def score(self, response: str, target: Target) -> float:
        """Returns the smoothed BLEU-4 of one response."""
        if not response.strip():
            return 0.0
        return float(bleu_score([spaced(response)], [[spaced(r) for r in target.references]], smooth=True))

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """Returns the BLEU-4 of the corpus."""
        return float(bleu_score([spaced(r) for r in responses], [[spaced(r) for r in t.references] for t in targets]))


class ROUGE(_Caption):
    """ROUGE-L F1 against the nearest reference (Lin, 2004), averaged over the responses."""

    title = "ROUGE-L"

    def score(self, response: str, target: Target) -> float:
        """Returns the ROUGE-L F1 of one response."""
        if not response.strip():
            return 0.0
        # only rougeL: the sentence-level variant needs nltk
        found = rouge_score(
            [response], [list(target.references)], normalizer=letters, tokenizer=str.split, rouge_keys=("rougeL",)
        )
        return float(found["rougeL_fmeasure"])
