"""Interface of selectors, and their input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidates:
    """Several responses to one question in the order of generation. The first is the greedy one.

    Attributes:
        texts: Responses.
        answers: Answer of each response, equal for equivalent responses; None if it has no answer.
        scores: For each critic, the scores of each response's steps.
        marks: Score of each response by the metric, from 0 to 1. Only `Oracle` uses it.
    """

    texts: Sequence[str]
    answers: Sequence[str | None] = ()
    scores: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    marks: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("a selector needs at least one candidate")
        for name, given in {"answers": self.answers, "marks": self.marks, **self.scores}.items():
            if given and len(given) != len(self.texts):
                raise ValueError(f"{len(self.texts)} candidates, {len(given)} {name}")

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Candidates:
        """Returns the first `count` candidates."""
        scores = {name: steps[:count] for name, steps in self.scores.items()}
        return Candidates(self.texts[:count], self.answers[:count], scores, self.marks[:count])


class Selector(ABC):
    """Chooses one of several responses to a question.

    A single candidate is always chosen. Of equally good candidates, the earliest is chosen.
    """

    @abstractmethod
    def choose(self, candidates: Candidates) -> int:
        """Returns the index of the chosen candidate."""

    def choices(self, candidates: Candidates) -> list[int]:
        """Returns the choice among the first N candidates for each N: accuracy over N from one sampling run."""
        return [self.choose(candidates.first(count)) for count in range(1, len(candidates) + 1)]


def best(values: Sequence[float]) -> int:
    """Returns the index of the largest value, the first of equal ones. NaN counts as -inf."""
    ranked = [float("-inf") if value != value else value for value in values]
    return ranked.index(max(ranked))
