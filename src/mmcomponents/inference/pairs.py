"""Pairs of a better and a worse answer, from a model's own answers (MMPR, arXiv 2411.10442, section 3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mmcomponents.inference.checking import Checker
from mmcomponents.inference.sampler import keyed


@dataclass
class Paired:
    """What the answers to a question came to.

    Attributes:
        pairs: (chosen, rejected), each once.
        correct: Answers that are right.
        wrong: Answers that are wrong.
        unparseable: Answers in which no answer is found, those that were cut among them.
        odd: The first of these.
        cut: Answers that the limit of new tokens has ended.
        contained: Pairs left out because the right answer is part of the wrong one.
        equal: Pairs left out because both answers are the same.
        why_none: Why there is no pair; "" where there is one.
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    correct: int = 0
    wrong: int = 0
    unparseable: int = 0
    odd: str = ""
    cut: int = 0
    contained: int = 0
    equal: int = 0
    why_none: str = ""


def pair_by_correctness(
    texts: Sequence[str],
    reference: str,
    checker: Checker,
    *,
    cut: Collection[int] = (),
    max_pairs: int = 15,
    format_negatives: bool = True,
    seed: int = 0,
    key: str = "",
) -> Paired:
    """Pairs right answers with wrong ones; which ones, is drawn.

    An answer that was cut is never the right one, whatever it says: "Final answer: 12" may be the begin of 120, and who
    learns from it learns to stop in the midst. It counts as one in which no answer is found.

    Args:
        texts: Answers to one question.
        reference: The true answer.
        checker: Judges the answers.
        cut: Numbers of the answers that the limit of new tokens has ended, see `Answers`.
        max_pairs: Pairs at most. MMPR takes 15, and 3 from very large files.
        format_negatives: Whether answers in which no answer is found are taken for wrong ones. The rule of the part
            does not hold for them: there is nothing to compare.
        seed: Of the draw.
        key: Of the question; the draw depends on seed and key alone.
    """
    out = Paired(cut=len(cut))
    right, wrong = dict[str, str](), dict[str, str | None]()  # each text once, with its answer
    for number, text in enumerate(texts):
        verdict = None if number in cut else checker(text, reference)
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
    wrong = {text: answer for text, answer in wrong.items() if text not in right}  # the same text, once cut, once whole
    every = [(chosen, rejected) for chosen in right for rejected in wrong]
    allowed = [(c, r) for c, r in every if (answer := wrong[r]) is None or right[c] not in answer]
    out.contained = len(every) - len(allowed)
    order = keyed(seed, key, "pairs").permutation(len(allowed))[:max_pairs]
    out.pairs = [allowed[number] for number in order.tolist()]
    if not out.pairs:
        out.why_none = (
            "no right answer" if not right else "no wrong answer" if not wrong else "the right answer is part of it"
        )
    return out


def first_half(text: str) -> str | None:
    """The first half of a text's words, as they stand in it; None where it has fewer than two words.

    Of an odd number of words the second half has one more. Words are what white space parts: a text without any, as in
    Chinese, has no half.
    """
    ends = [found.end() for found in re.finditer(r"\S+", text)]
    return text[: ends[len(ends) // 2 - 1]] if len(ends) > 1 else None
