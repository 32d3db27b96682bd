"""What a metric is: how right one answer is, and what a number for many of them is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmcomponents.inference.checking import BoxedAnswer, FinalAnswer


@dataclass(frozen=True)
class Target:
    """What answers to a question are measured by.

    Attributes:
        references: Answers that count as right, one at least.
        options: Letters of the options, in their order, with their texts; empty where the question has none.
    """

    references: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)


class Metric(ABC):
    """Measures answers.

    Attributes:
        title: What its figure is called in a table or a picture.
    """

    title: str = ""

    @abstractmethod
    def extract(self, response: str, target: Target) -> str | None:
        """The answer in a response, alike for responses that mean the same; None where there is none to be read."""

    def answers(self, responses: Sequence[str], target: Target) -> list[str | None]:
        """The answer in each of several responses to one question, equal where they mean the same."""
        return [self.extract(response, target) for response in responses]

    @abstractmethod
    def score(self, response: str, target: Target) -> float:
        """How right a response is, from 0 to 1."""

    def measure(self, responses: Sequence[str], target: Target) -> tuple[list[str | None], list[float]]:
        """`answers`, and the score of each response."""
        return self.answers(responses, target), [self.score(response, target) for response in responses]

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """The figure for many questions: the mean of their scores, where a metric has no other."""
        return sum(self.score(r, t) for r, t in zip(responses, targets, strict=True)) / len(responses)

    @property
    def is_mean(self) -> bool:
        """Whether the figure for many questions is the mean of their scores."""
        return type(self).total is Metric.total

    def check(self, target: Target) -> str:
        """What is wrong with a target for this metric, "" where nothing is."""
        return ""


_FINAL, _BOXED = FinalAnswer(), BoxedAnswer()


def final(response: str) -> str:
    """What a response says in the end: behind "Answer:" on its last line, or in its last box; else all of it."""
    parts = _FINAL.split(response)
    return parts[1] if parts is not None else _BOXED.extract(response) or response


def normal(text: str) -> str:
    """A text without case, and with single blanks."""
    return " ".join(text.split()).casefold()
