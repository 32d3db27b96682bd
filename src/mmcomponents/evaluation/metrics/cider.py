"""CIDEr-D, which weights the words of captions by how rare they are among the references of a benchmark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from mmcomponents.evaluation.metrics.base import Target
from mmcomponents.evaluation.metrics.captions import CaptionMetric, coco_words

_LONGEST = 4
"""Words of the longest n-grams."""
_SIGMA = 6.0
"""Deviation of the penalty on differences in length."""

Grams = Counter[tuple[str, ...]]


class CIDEr(CaptionMetric):
    """CIDEr-D of the corpus (arXiv 1411.5726, section 4; values of COCO's `pycocoevalcap`).

    The inverse document frequencies are those of the references of all questions. The figure is 0 to 10: 1.2 is what
    papers call 120. A single response is scored from 0 to 1 with equal weights of all n-grams, since one question has
    no document frequencies. pycocoevalcap itself splits words by a Java program; `coco_words` follows its rules.
    """

    title = "CIDEr"

    def score(self, response: str, target: Target) -> float:
        """Returns the similarity of one response with equal weights, from 0 to 1."""
        references = [_grams(reference) for reference in target.references]
        return _similarity(_grams(response), references, {}, 1.0)

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """Returns the CIDEr-D of the corpus."""
        references = [[_grams(reference) for reference in target.references] for target in targets]
        seen = Counter(gram for group in references for gram in {gram for grams in group for gram in grams})
        whole = math.log(len(targets))
        pairs = zip(responses, references, strict=True)
        return 10.0 * sum(_similarity(_grams(response), group, seen, whole) for response, group in pairs) / len(targets)


def _grams(text: str) -> Grams:
    """Counts the n-grams of a text, of one to four words."""
    words = coco_words(text)
    return Counter(
        tuple(words[begin : begin + length])
        for length in range(1, _LONGEST + 1)
        for begin in range(len(words) - length + 1)
    )


def _similarity(found: Grams, references: Sequence[Grams], seen: Mapping[tuple[str, ...], int], whole: float) -> float:
    """Returns the mean cosine over references and lengths of n-grams, clipped and with the penalty on lengths.

    Args:
        found: n-grams of the response.
        references: Those of each reference.
        seen: Number of questions with an n-gram in their references.
        whole: Logarithm of the number of questions.
    """
    mine, total = _vectors(found, seen, whole), 0.0
    for reference in references:
        theirs = _vectors(reference, seen, whole)
        # The scorer measures lengths in pairs of words.
        difference = sum(mine[1][1].values()) - sum(theirs[1][1].values())
        penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
        for (vector, _), (other, _) in zip(mine, theirs, strict=True):
            norm = math.sqrt(sum(x * x for x in vector.values()) * sum(x * x for x in other.values()))
            shared = sum(min(x, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, x in vector.items())
            total += penalty * shared / norm if norm else 0.0
    return total / (_LONGEST * len(references))


def _vectors(
    grams: Grams, seen: Mapping[tuple[str, ...], int], whole: float
) -> list[tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], int]]]:
    """Returns weights and counts of the n-grams, for each length."""
    found: list[tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], int]]] = [({}, {}) for _ in range(_LONGEST)]
    for gram, count in grams.items():
        weights, counts = found[len(gram) - 1]
        weights[gram] = count * (whole - math.log(max(1, seen.get(gram, 0))))
        counts[gram] = count
    return found
