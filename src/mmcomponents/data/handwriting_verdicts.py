"""Statements, sums and solutions of the ladder with verdicts that are known: some are falsified on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcomponents.data.chat import Message
from mmcomponents.data.critique import WORDS, critique
from mmcomponents.data.handwriting_questions import PHRASINGS

MISREAD, MISCOUNTED, MISQUOTED = 0.4, 0.02, 0.2
"""How often a digit, a running total, and the answer at the end are false."""
_OFF = (-1, 1, -1, 1, -1, 1, -1, 1, -2, 2, -10, 10)
"""Totals are off by one most often, as those of a small model are."""


def adding_question(generator: np.random.Generator) -> str:
    """One of the ways to ask for the sum."""
    return f"<image>\n{PHRASINGS['add'][int(generator.integers(len(PHRASINGS['add'])))]}"


def judged_statements(digits: Sequence[int], places: Sequence[int], generator: np.random.Generator) -> str:
    """A document of statements about the digits of a scene, half of them false, with a verdict on each.

    What is really there stands behind each verdict. Where a digit comes up again, the text has something to compare the
    next statement with: a small model learns to compare in the text first, within some hundred steps, and then with the
    image. All words of a document are learnt from, and a verdict stands right behind its statement. From conversations,
    where only verdict and truth are learnt from, a third of the tokens, one model of three still guessed after 3,000
    steps; from documents three of three compared within 600. With the roles of a conversation in between, one
    of two still guessed after 700.

    Args:
        digits: Of the scene.
        places: What the statements are about, from 0.
        generator: Of mistakes.
    """
    lines = ["<image>"]
    for place in places:
        true = bool(generator.integers(2))
        said = digits[place] if true else _other(digits[place], generator)
        lines += [f"Digit {place + 1} is {said}.", f"{WORDS[0] if true else WORDS[1]} {digits[place]}"]
    return "\n".join(lines)


def judged_sums(most: int, count: int, generator: np.random.Generator) -> list[Message]:
    """A conversation about sums, without an image: totals so far and a digit, which make another total or do not.

    Half of the statements are false. A verdict stands behind each, and what is right.

    Args:
        most: Digits of a sum at most.
        count: Of statements.
        generator: Of numbers and mistakes.
    """
    before, place, digit = 0, 2, 0
    messages = list[Message]()
    for number in range(count):
        if number == 0 or generator.random() < 0.5:  # else the same sum again, with another total
            place = int(generator.integers(2, most, endpoint=True))
            before, digit = int(generator.integers(9 * place - 8)), int(generator.integers(10))
        right = before + digit
        true = bool(generator.integers(2))
        said = right if true else _off(right, generator)
        verdict = WORDS[0] if said == right else WORDS[1]
        messages.append({"role": "user", "content": step(place, digit, before, said)})
        messages.append({"role": "assistant", "content": f"{verdict} {step(place, digit, before, right)}"})
    return messages


@dataclass(frozen=True)
class Judged:
    """A solution with mistakes.

    Attributes:
        question: That it answers.
        steps: What it says, the answer last.
        verdicts: One word on each step: is it right, whatever was wrong before?
        truths: The digit that is there, for each step, and the last total, for the answer. Totals are not corrected.
    """

    question: str
    steps: tuple[str, ...]
    verdicts: tuple[str, ...]
    truths: tuple[int, ...]

    def transcript(self) -> str:
        """A document: behind each step its verdict and the truth."""
        pairs = zip(self.steps, self._corrections(), strict=True)
        return "\n".join([self.question, *(line for pair in pairs for line in pair)])

    def conversation(self, told: bool) -> list[Message]:
        """A critic's conversation.

        Without a system text, which would push the image away from where it stands in pre-training.

        Args:
            told: Whether the truth stands behind each verdict.
        """
        return critique(self.question, self.steps, self._corrections() if told else self.verdicts, system=None)

    def _corrections(self) -> list[str]:
        return [f"{verdict} {truth}" for verdict, truth in zip(self.verdicts, self.truths, strict=True)]


def judged_solution(digits: Sequence[int], similar: Sequence[int], generator: np.random.Generator) -> Judged:
    """A solution with mistakes.

    Args:
        digits: Of the scene.
        similar: What each digit looks like most, beside what it is: half of those misread are taken for that, the rest
            for any digit.
        generator: Of mistakes.
    """
    steps, verdicts, total = list[str](), list[str](), 0
    for place, (digit, alike) in enumerate(zip(digits, similar, strict=True), start=1):
        said = digit
        if generator.random() < MISREAD:
            said = alike if generator.integers(2) else _other(digit, generator)
        before, right = total, total + said
        total = _off(right, generator) if place > 1 and generator.random() < MISCOUNTED else right
        steps.append(step(place, said, before, total))
        verdicts.append(WORDS[0] if said == digit and total == right else WORDS[1])
    final = _off(total, generator) if generator.random() < MISQUOTED else total
    steps.append(f"Answer: {final}")
    verdicts.append(WORDS[0] if final == total else WORDS[1])
    question = adding_question(generator)
    return Judged(question, tuple(steps), tuple(verdicts), (*digits, total))


def step(place: int, digit: int, before: int, total: int) -> str:
    """A step of a sum: the digit is named, and added to what came before."""
    return f"Digit {place} is {digit}." + (f" {before} + {digit} = {total}" if place > 1 else "")


def _other(digit: int, generator: np.random.Generator) -> int:
    return (digit + int(generator.integers(1, 10))) % 10


def _off(total: int, generator: np.random.Generator) -> int:
    return abs(total + _OFF[int(generator.integers(len(_OFF)))])
