"""Statements, sums and solutions with deliberate mistakes and known verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmcomponents.data.chat.critic_prompt import WORDS, critique
from mmcomponents.data.chat.placeholders import Message
from mmcomponents.demos.handwriting.digit_questions import PHRASINGS

MISREAD, MISCOUNTED, MISQUOTED = 0.4, 0.02, 0.2
"""Probabilities of a mistake in a digit, a running total, and the final answer."""
_OFF = (-1, 1, -1, 1, -1, 1, -1, 1, -2, 2, -10, 10)
"""Errors of totals, mostly off by one, like those of a small model."""


def adding_question(generator: np.random.Generator) -> str:
    """Draws one of the phrasings of the question for the sum."""
    return f"<image>\n{PHRASINGS['add'][int(generator.integers(len(PHRASINGS['add'])))]}"


def judged_statements(digits: Sequence[int], places: Sequence[int], generator: np.random.Generator) -> str:
    """Writes a document of statements about the digits of a scene, half of them false, each followed by a verdict.

    The true digit follows each verdict. If a digit is repeated, the next statement can be compared with the text: a
    small model learns to compare within the text first, in a few hundred steps, and then with the image. In a document
    all tokens are targets, and a verdict directly follows its statement. In conversations only verdict and truth are
    targets, a third of the tokens: one model of three still guessed after 3,000 steps, while with documents three of
    three compared within 600. With the roles of a conversation in between, one of two still guessed after 700.

    Args:
        digits: Digits of the scene.
        places: Position of the digit in each statement, from 0.
        generator: Source of randomness.
    """
    lines = ["<image>"]
    for place in places:
        true = bool(generator.integers(2))
        said = digits[place] if true else _other(digits[place], generator)
        lines += [f"Digit {place + 1} is {said}.", f"{WORDS[0] if true else WORDS[1]} {digits[place]}"]
    return "\n".join(lines)


def judged_sums(most: int, count: int, generator: np.random.Generator) -> list[Message]:
    """Writes a conversation about sums, without an image: statements that add a digit to a running total.

    Half of the statements are false. The answer to each is a verdict with the correct statement.

    Args:
        most: Largest number of digits of a sum.
        count: Number of statements.
        generator: Source of randomness.
    """
    before, place, digit = 0, 2, 0
    messages = list[Message]()
    for number in range(count):
        if number == 0 or generator.random() < 0.5:  # else the same sum, with another total
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
        question: The question.
        steps: The steps and the answer.
        verdicts: Verdict word of each step, regardless of earlier mistakes.
        truths: True digit of each step, and for the answer the last total. Totals are not corrected.
    """

    question: str
    steps: tuple[str, ...]
    verdicts: tuple[str, ...]
    truths: tuple[int, ...]

    def transcript(self) -> str:
        """Returns a document in which the verdict and the truth follow each step."""
        pairs = zip(self.steps, self._corrections(), strict=True)
        return "\n".join([self.question, *(line for pair in pairs for line in pair)])

    def conversation(self, with_truth: bool) -> list[Message]:
        """Returns a critic's conversation.

        It has no system text, which would shift the image from its position in pre-training.

        Args:
            with_truth: Whether the truth follows each verdict.
        """
        return critique(self.question, self.steps, self._corrections() if with_truth else self.verdicts, system=None)

    def _corrections(self) -> list[str]:
        return [f"{verdict} {truth}" for verdict, truth in zip(self.verdicts, self.truths, strict=True)]


def judged_solution(digits: Sequence[int], similar: Sequence[int], generator: np.random.Generator) -> Judged:
    """Writes a solution with mistakes.

    Args:
        digits: Digits of the scene.
        similar: The other digit that each is most similar to, which replaces half of the misread digits; a random digit
            replaces the others.
        generator: Source of randomness.
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
    """Writes a step of a sum: the digit, and its addition to the total before."""
    return f"Digit {place} is {digit}." + (f" {before} + {digit} = {total}" if place > 1 else "")


def _other(digit: int, generator: np.random.Generator) -> int:
    return (digit + int(generator.integers(1, 10))) % 10


def _off(total: int, generator: np.random.Generator) -> int:
    return abs(total + _OFF[int(generator.integers(len(_OFF)))])
