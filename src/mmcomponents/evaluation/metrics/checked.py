"""Metrics that score answers with a checker: numbers, boxes, a last line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcomponents.evaluation.checkers import BoxedAnswer, FinalAnswer, NumericAnswer
from mmcomponents.evaluation.metrics.base import Metric, Target
from mmcomponents.synthesis.checker import Checker


class CheckedAnswer(Metric):
    """Accuracy according to a checker; a response without an answer is wrong.

    Args:
        checker: See `mmcomponents.evaluation.checkers`.
        title: Name of the figure.
    """

    def __init__(self, checker: Checker, title: str = "accuracy") -> None:
        self.checker = checker
        self.title = title

    def extract(self, response: str, target: Target) -> str | None:
        """Returns the answer that the checker extracts."""
        return self.checker.extract(response)

    def answers(self, responses: Sequence[str], target: Target) -> list[str | None]:
        """Returns each response's answer, as written in the first response with an equal answer."""
        return self.measure(responses, target)[0]

    def score(self, response: str, target: Target) -> float:
        """Returns 1 or 0."""
        return self.measure([response], target)[1][0]

    def measure(self, responses: Sequence[str], target: Target) -> tuple[list[str | None], list[float]]:
        """Returns answers (see `answers`) and scores; each distinct answer is parsed once."""
        checker, known = self.checker, dict[str, Any]()  # answers, no two of which are equal
        true = [checker.parse(checker.truth(reference)) for reference in target.references]
        first, mark = dict[str, str](), dict[str, float]()  # by answer: its first spelling; its score
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
    """Accuracy of the last number of the response."""

    def __init__(self) -> None:
        super().__init__(NumericAnswer(), "numeric accuracy")


class BoxedMatch(CheckedAnswer):
    r"""Accuracy of the content of the last `\boxed{…}`."""

    def __init__(self) -> None:
        super().__init__(BoxedAnswer(), "boxed-answer accuracy")


class FinalMatch(CheckedAnswer):
    """Accuracy of the text after "Answer:" on the last line; the reference may have such a last line too."""

    def __init__(self) -> None:
        super().__init__(FinalAnswer(), "final-answer accuracy")
