"""What a selector sees, and what it says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidates:
    """Several answers to one question, in the order in which they were drawn. The first is the greedy one.

    Attributes:
        texts: What the model said.
        answers: What each text comes to, alike for texts that mean the same; None where none can be read from it.
        scores: For each critic the scores of each text's steps.
        marks: How right each text is, from 0 to 1. Only an oracle knows.
    """

    texts: Sequence[str]
    answers: Sequence[str | None] = ()
    scores: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    marks: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("a selector needs one candidate at least")
        for name, given in {"answers": self.answers, "marks": self.marks, **self.scores}.items():
            if given and len(given) != len(self.texts):
                raise ValueError(f"{len(self.texts)} candidates, {len(given)} {name}")

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, count: int) -> Candidates:
        """The first candidates alone."""
        scores = {name: steps[:count] for name, steps in self.scores.items()}
        return Candidates(self.texts[:count], self.answers[:count], scores, self.marks[:count])


class Selector(ABC):
    """Chooses one of several answers to a question.

    Of one answer it chooses that one. Of equally good ones it chooses the earliest.
    """

    @abstractmethod
    def choose(self, candidates: Candidates) -> int:
        """Number of the candidate that is given as the answer."""

    def choices(self, candidates: Candidates) -> list[int]:
        """What is chosen of the first candidate, of the first two, and so on: accuracy against N from one sampling."""
        return [self.choose(candidates.first(count)) for count in range(1, len(candidates) + 1)]


def best(values: Sequence[float]) -> int:
    """The place of the largest value, of equal ones the first. What is no number counts as the smallest."""
    ranked = [float("-inf") if value != value else value for value in values]
    return ranked.index(max(ranked))
