"""Answers that are judged by a checker: numbers, boxes, a last line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcomponents.inference.checking import BoxedAnswer, Checker, FinalAnswer, NumericAnswer
from mmcomponents.inference.evaluation.metrics.base import Metric, Target


class CheckedAnswer(Metric):
    """Right is what a checker finds right; a response without an answer is wrong.

    Args:
        checker: See `mmcomponents.inference.checking`.
        title: What the figure is called.
    """

    def __init__(self, checker: Checker, title: str = "accuracy") -> None:
        self.checker = checker
        self.title = title

    def extract(self, response: str, target: Target) -> str | None:
        """What the checker finds."""
        return self.checker.extract(response)

    def answers(self, responses: Sequence[str], target: Target) -> list[str | None]:
        """Each response's answer, as the first response with the same one writes it."""
        return self.measure(responses, target)[0]

    def score(self, response: str, target: Target) -> float:
        """1 or 0."""
        return self.measure([response], target)[1][0]

    def measure(self, responses: Sequence[str], target: Target) -> tuple[list[str | None], list[float]]:
        """`answers` and scores; each response, and each answer, is parsed once."""
        checker, known = self.checker, dict[str, Any]()  # answers of which no two are the same
        true = [checker.parse(checker.truth(reference)) for reference in target.references]
        first, mark = dict[str, str](), dict[str, float]()  # by answer: who writes it first; how right it is
        found = [checker.extract(response) for response in responses]
        for answer in found:
            if answer is None or answer in first:
                continue
            parsed = checker.parse(answer)
            alike = next((other for other in known if checker.agree(parsed, known[other])), None)
            if alike is None:
                known[answer] = parsed
            first[answer] = answer if alike is None else alike
            mark[answer] = float(any(checker.agree(parsed, one) for one in true))
        answers = [None if answer is None else first[answer] for answer in found]
        return answers, [0.0 if answer is None else mark[answer] for answer in found]


class NumericMatch(CheckedAnswer):
    """The last number of the response is the reference's."""

    def __init__(self) -> None:
        super().__init__(NumericAnswer(), "accuracy of numbers")


class BoxedMatch(CheckedAnswer):
    r"""What stands in the last `\\boxed{…}` is the reference."""

    def __init__(self) -> None:
        super().__init__(BoxedAnswer(), "accuracy of boxed answers")


class FinalMatch(CheckedAnswer):
    """What the last line says behind "Answer:" is the reference, or what the reference's last line says."""

    def __init__(self) -> None:
        super().__init__(FinalAnswer(), "accuracy of final answers")
