"""Preference pairs from a model's own answers (MMPR, arXiv 2411.10442, section 3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mmcomponents.draws import keyed
from mmcomponents.synthesis.checker import Checker


@dataclass
class PairCounts:
    """Counts of answers and pairs.

    Attributes:
        correct: Number of correct answers.
        wrong: Number of wrong answers.
        unparseable: Number of responses without a parseable answer, including the truncated ones.
        odd: The first of these responses.
        cut: Number of answers that were truncated at the limit of new tokens.
        contained: Number of pairs omitted because the correct answer is part of the wrong one.
        equal: Number of pairs omitted because both answers are equal.
    """

    correct: int = 0
    wrong: int = 0
    unparseable: int = 0
    odd: str = ""
    cut: int = 0
    contained: int = 0
    equal: int = 0

    def add(self, more: PairCounts) -> None:
        """Adds the counts of further answers."""
        self.correct += more.correct
        self.wrong += more.wrong
        self.unparseable += more.unparseable
        self.odd = self.odd or more.odd
        self.cut += more.cut
        self.contained += more.contained
        self.equal += more.equal


@dataclass
class Paired(PairCounts):
    """Pairs of a question.

    Attributes:
        pairs: Distinct (chosen, rejected) texts.
        why_none: Reason if there is no pair; "" otherwise.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    why_none: str = ""


def pair_by_correctness(
    texts: Sequence[str],
    reference: str | Sequence[str],
    checker: Checker,
    *,
    cut: Collection[int] = (),
    max_pairs: int = 15,
    format_negatives: bool = True,
    seed: int = 0,
    key: str = "",
) -> Paired:
    """Pairs correct answers with wrong ones, selecting pairs at random.

    A truncated answer never counts as correct: "Final answer: 12" may be the beginning of 120, and a model trained on
    it would learn to stop too early. It counts as a response without a parseable answer.

    Args:
        texts: Answers to one question.
        reference: Correct answer, or several.
        checker: Checks the answers.
        cut: Numbers of the answers that were truncated at the limit of new tokens, see `Answers`.
        max_pairs: Maximum number of pairs. MMPR uses 15, and 3 for very large files.
        format_negatives: Whether responses without a parseable answer count as wrong. They are not tested for
            containing the correct answer, as there is no answer to compare.
        seed: Seed of the selection.
        key: Key of the question; the selection depends only on seed and key.
    """
    out = Paired(cut=len(cut))
    references = [reference] if isinstance(reference, str) else reference
    right, wrong = dict[str, str](), dict[str, str | None]()  # distinct texts with their answers
    for number, text in enumerate(texts):
        verdict = None if number in cut else checker(text, *references)
        if verdict:
            out.correct += 1
            right[text] = checker.truth(text)
        elif verdict is None:
            out.unparseable += 1
            out.odd = out.odd or text
            if format_negatives:
                wrong[text] = None
        else:
            out.wrong += 1
            wrong[text] = checker.truth(text)
    wrong = {text: answer for text, answer in wrong.items() if text not in right}  # may be both truncated and complete
    every = [(chosen, rejected) for chosen in right for rejected in wrong]
    allowed = [(c, r) for c, r in every if (answer := wrong[r]) is None or right[c] not in answer]
    out.contained = len(every) - len(allowed)
    order = keyed(seed, key, "pairs").permutation(len(allowed))[:max_pairs]
    out.pairs = [allowed[number] for number in order.tolist()]
    if not out.pairs:
        contained = "the right answer is part of it"
        out.why_none = "no right answer" if not right else "no wrong answer" if not wrong else contained
    return out


def first_half(text: str) -> str | None:
    """Returns the first half of a text's words, with their whitespace; None if it has fewer than two words.

    With an odd number of words, the second half has one more. Words are separated by whitespace: a text without any,
    as in Chinese, has no half.
    """
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    return text[: ends[len(ends) // 2 - 1]] if len(ends) > 1 else None
