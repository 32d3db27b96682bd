"""Caption metrics: BLEU and ROUGE from torchmetrics, over the words of COCO's scorers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torchmetrics.functional.text import bleu_score, rouge_score

from mmcomponents.evaluation.metrics.base import Metric, Target, normal

_CJK = re.compile("([\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff])")
"""Chinese and Japanese characters, including punctuation. Korean separates words by spaces."""
_SHORT = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))(?!\w)")
"""Endings that are words of their own: do n't, dog 's."""
_WORDS = re.compile(r"\d+(?:[.,:]\d+)+|n't|'(?:s|re|ve|ll|d|m)(?!\w)|\w+(?:-\w+)*|[^\s\w]")
_PUNCTUATION = frozenset("'\"`()[]{}.?!,:;-–—…。，、？！：；“”‘’（）「」『』《》")


def coco_words(text: str) -> list[str]:
    """Returns the words of a caption: in lower case, without punctuation, with endings such as "'s" apart.

    These are the rules of the Penn Treebank that COCO's scorers apply, except those for abbreviations ("U.S.") and for
    "cannot"; each Chinese or Japanese character is a word.
    """
    text = _SHORT.sub(r" \1 ", _CJK.sub(r" \1 ", text.lower().replace("’", "'")))
    return [word for word in _WORDS.findall(text) if word not in _PUNCTUATION]


class CaptionMetric(Metric):
    """Base class of caption metrics: the complete response is compared, ignoring case and punctuation."""

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the response case-folded and with single spaces."""
        return normal(response) or None


class BLEU(CaptionMetric):
    """Corpus BLEU-4 (Papineni et al., ACL 2002) over the words of COCO's scorers.

    Of references that are equally close in length, the shorter counts for the brevity penalty, as in COCO's scorer. A
    single response is scored with smoothed counts, since few responses share a 4-gram with a reference.
    """

    title = "BLEU-4"

    def score(self, response: str, target: Target) -> float:
        """Returns the smoothed BLEU-4 of one response."""
        if not coco_words(response):
            return 0.0
        return _bleu([response], [target], smooth=True)

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """Returns the BLEU-4 of the corpus."""
        return _bleu(responses, targets, smooth=False)


class ROUGE(CaptionMetric):
    """ROUGE-L F1 against the nearest reference (Lin, 2004), averaged over the responses, as the package rouge-score.

    COCO's scorer weights recall more than precision, and is not followed.
    """

    title = "ROUGE-L"

    def score(self, response: str, target: Target) -> float:
        """Returns the ROUGE-L F1 of one response."""
        if not coco_words(response):
            return 0.0
        # only rougeL: the sentence-level variant needs nltk
        found = rouge_score(
            [response], [list(target.references)], normalizer=_spaced, tokenizer=str.split, rouge_keys=("rougeL",)
        )
        return float(found["rougeL_fmeasure"])


def _bleu(responses: Sequence[str], targets: Sequence[Target], smooth: bool) -> float:
    # torchmetrics takes the first of equally close references
    references = [sorted((coco_words(r) for r in target.references), key=len) for target in targets]
    texts = [[" ".join(words) for words in group] for group in references]
    return float(bleu_score([_spaced(response) for response in responses], texts, smooth=smooth))


def _spaced(text: str) -> str:
    return " ".join(coco_words(text))
