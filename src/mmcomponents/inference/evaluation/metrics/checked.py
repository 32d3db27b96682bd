"""Answers that are judged by a checker: numbers, boxes, a last line."""

from __future__ import annotations

from collections.abc import Sequence

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
        known: list[str] = []
        found: list[str | None] = []
        for response in responses:
            answer = self.checker.extract(response)
            if answer is not None:
                alike = next((other for other in known if self.checker.same(answer, other)), None)
                if alike is None:
                    known.append(answer)
                answer = alike or answer
            found.append(answer)
        return found

    def score(self, response: str, target: Target) -> float:
        """1 or 0."""
        return float(any(self.checker(response, reference) is True for reference in target.references))


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
