"""Results of questions: candidates, choices of the selectors, and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcomponents.evaluation.intervals import interval
from mmcomponents.evaluation.metrics import Metric
from mmcomponents.evaluation.selectors import Candidates, Selector
from mmcomponents.synthesis.questions import Item

_DIGITS = 6
"""Decimal places of scores in `results.jsonl`."""


@dataclass(frozen=True)
class Result:
    """One question with its candidates.

    Attributes:
        item: Question.
        candidates: All candidates, with answers, scores and marks.
        chosen: For each selector, its choice among the first N candidates, for N = 1, 2, ….
    """

    item: Item
    candidates: Candidates
    chosen: Mapping[str, Sequence[int]]

    def mark(self, selector: str, count: int) -> float:
        """Returns the mark of a selector's choice among the first `count` candidates."""
        return self.candidates.marks[self.chosen[selector][count - 1]]

    def line(self) -> dict[str, Any]:
        """Returns the record for `results.jsonl`."""
        last = {name: places[-1] for name, places in self.chosen.items()}
        return {
            "key": self.item.key,
            "category": self.item.category,
            "question": self.item.text,
            "reference": list(self.item.target.references),
            "candidates": list(self.candidates.texts),
            "answers": list(self.candidates.answers),
            "marks": [round(mark, _DIGITS) for mark in self.candidates.marks],
            "scores": {
                name: [[round(score, _DIGITS) for score in steps] for steps in every]
                for name, every in self.candidates.scores.items()
            },
            "chosen": {name: list(places) for name, places in self.chosen.items()},
            "right": {name: round(self.candidates.marks[place], _DIGITS) for name, place in last.items()},
        }


def judge(
    item: Item,
    texts: Sequence[str],
    scores: Mapping[str, Sequence[Sequence[float]]],
    metric: Metric,
    selectors: Mapping[str, Selector],
) -> Result:
    """Scores the candidates of a question and applies each selector.

    Args:
        item: Question.
        texts: Candidates.
        scores: For each critic, the scores of each candidate's steps.
        metric: Scores the candidates.
        selectors: Selectors by their names in the report.
    """
    answers, marks = metric.measure(texts, item.target)
    candidates = Candidates(texts=texts, answers=answers, scores=scores, marks=marks)
    return Result(item, candidates, {name: selector.choices(candidates) for name, selector in selectors.items()})


def summary(results: Sequence[Result], metric: Metric) -> dict[str, Any]:
    """Computes the figure for each selector and N, over all questions and per category, with 95 % intervals.

    Args:
        results: At least one question; all have the same number of candidates and the same selectors.
        metric: Metric that computes the figure.
    """
    samples = len(results[0].candidates)
    selectors = list(results[0].chosen)
    categories: dict[str, list[Result]] = {}
    for result in results:
        categories.setdefault(result.item.category, []).append(result)
    parsed = sum(answer is not None for result in results for answer in result.candidates.answers)
    return {
        "questions": len(results),
        "samples": samples,
        "with_an_answer": parsed / (samples * len(results)),
        "figures": {name: _figures(results, name, samples, metric) for name in selectors},
        "by_category": {
            category: {
                "questions": len(part),
                "figures": {name: _figures(part, name, samples, metric) for name in selectors},
            }
            for category, part in sorted(categories.items())
        }
        if len(categories) > 1
        else {},
    }


def _figures(results: Sequence[Result], selector: str, samples: int, metric: Metric) -> dict[str, Any]:
    """Returns N -> figure and interval; a figure that is not a mean has no interval."""
    found = {}
    for count in range(1, samples + 1):
        marks = [result.mark(selector, count) for result in results]
        if metric.is_mean:
            low, high = interval(marks)
            found[str(count)] = {"value": sum(marks) / len(marks), "low": low, "high": high}
        else:
            chosen = [result.candidates.texts[result.chosen[selector][count - 1]] for result in results]
            found[str(count)] = {"value": metric.total(chosen, [result.item.target for result in results])}
    return found
