"""Accuracy of open answers against those of ten annotators, for VQAv2 and TextVQA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from mmcomponents.evaluation.metrics.base import Metric, Target, final

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
            "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_GROUPED = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_SHORT = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't"
    " not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll"
    " somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd"
    " there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll"
    " what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's"
    " won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
"""Short forms whose apostrophe answers often lack."""


def _spellings(word: str) -> Iterator[str]:
    """Yields the spellings of a short form without one of its apostrophes."""
    for place, letter in enumerate(word):
        if letter == "'":
            yield word[:place] + word[place + 1 :]


_WHOLE = {spelling: word for word in _SHORT.split() for spelling in _spellings(word)} | {"somebody'd": "somebodyd"}


@lru_cache(maxsize=4096)
def vqa_words(text: str) -> str:
    """Returns an answer in the form that is compared: lower case, without punctuation and articles, numbers as digits.

    The rules are those of the evaluation server of VQAv2 and TextVQA, as in `EvalAIAnswerProcessor` of mmf.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    is_grouped, given = _GROUPED.search(text) is not None, text
    for mark in _MARKS:
        is_apart = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if is_apart or is_grouped else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", text).split()]
    return " ".join(_WHOLE.get(word, word) for word in words if word not in _ARTICLES)


class VQAAccuracy(Metric):
    """Accuracy of VQAv2 and TextVQA (arXiv 1505.00468; the evaluation server's processing of answers).

    An answer that three annotators gave is right, one that fewer gave counts a third for each; the mean is over all
    sets of the annotators without one of them. With a single reference, an answer is right or wrong.
    """

    title = "VQA accuracy"

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the final answer in the form that is compared."""
        return vqa_words(final(response)) or None

    def score(self, response: str, target: Target) -> float:
        """Returns the share of annotators with this answer, see above."""
        given = vqa_words(final(response))
        equal = [vqa_words(reference) == given for reference in target.references]
        if len(equal) == 1:
            return float(equal[0])
        return sum(min(1.0, (sum(equal) - one) / 3) for one in equal) / len(equal)
