"""Interface of metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from mmcomponents.evaluation.checkers import BoxedAnswer, FinalAnswer
from mmcomponents.synthesis.questions import Target

__all__ = ["Metric", "Target", "final", "normal"]


class Metric(ABC):
    """Scores responses.

    Attributes:
        title: Name of the figure in tables and plots.
    """

    title: str = ""

    @abstractmethod
    def extract(self, response: str, target: Target) -> str | None:
        """Returns the answer in a response, equal for equivalent responses; None if there is no answer."""

    def answers(self, responses: Sequence[str], target: Target) -> list[str | None]:
        """Returns the answer of each response to one question; equivalent answers are equal."""
        return [self.extract(response, target) for response in responses]

    @abstractmethod
    def score(self, response: str, target: Target) -> float:
        """Returns the score of a response, from 0 to 1."""

    def measure(self, responses: Sequence[str], target: Target) -> tuple[list[str | None], list[float]]:
        """Returns the answer (see `answers`) and the score of each response."""
        return self.answers(responses, target), [self.score(response, target) for response in responses]

    def total(self, responses: Sequence[str], targets: Sequence[Target]) -> float:
        """Returns the figure over many questions: by default the mean of their scores."""
        return sum(self.score(r, t) for r, t in zip(responses, targets, strict=True)) / len(responses)

    @property
    def is_mean(self) -> bool:
        """Whether the figure over many questions is the mean of their scores."""
        return type(self).total is Metric.total

    def check(self, target: Target) -> str:
        """Returns why a target is invalid for this metric; "" if it is valid."""
        return ""


_FINAL, _BOXED = FinalAnswer(), BoxedAnswer()


def final(response: str) -> str:
    """Returns the text after "Answer:" on the last line, else the content of the last box, else the response."""
    parts = _FINAL.split(response)
    return parts[1] if parts is not None else _BOXED.extract(response) or response


def normal(text: str) -> str:
    """Returns a text case-folded and with single spaces."""
    return " ".join(text.split()).casefold()
