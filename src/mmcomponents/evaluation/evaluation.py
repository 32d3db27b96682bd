"""Evaluation of a model on a benchmark: candidates, critic scores, selection, report.

Candidates and scores are appended to `candidates.jsonl` and `scores-CRITIC.jsonl` as they are produced, so that an
interrupted run can resume. `results.jsonl` has one line per question, `report.json` the figures, and `accuracy.png` a
plot of the figures over the number of candidates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.critic import Solution
from mmcomponents.evaluation.metrics import Metric
from mmcomponents.evaluation.outcome import Result, judge, summary
from mmcomponents.evaluation.plot import draw_accuracy
from mmcomponents.evaluation.selectors import Selector
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import Item, Questions, check_skipped
from mmcomponents.synthesis.rollout import Answers, Question, Sampling

Progress = Callable[[int, int], None]
"""Called with (questions done, total)."""

_SCORED_TOGETHER = 16
"""Questions per call of a critic; an interrupted run loses at most the scores of one call."""


class Answering(Protocol):
    """Generates candidates: `rollouts` with a model, a renderer and settings."""

    def __call__(
        self,
        questions: Sequence[Question],
        *,
        progress: Progress | None,
        done: Collection[str],
        refuse: Callable[[Question, SampleError], None],
    ) -> Iterator[tuple[Question, Answers]]:
        """Yields questions with their candidates, in any order."""


class Scoring(Protocol):
    """Scores the steps of solutions: `Critic.score`."""

    def __call__(
        self, solutions: Sequence[Solution], *, refuse: Callable[[Solution, SampleError], None]
    ) -> list[list[float]]:
        """Returns the scores of each solution's steps; empty for a solution that is passed to `refuse`."""


@dataclass
class Evaluation:
    """Evaluation of one model on one benchmark.

    Attributes:
        benchmark: Questions.
        metric: Scores the answers.
        selectors: Selectors by their names in the report.
        folder: Output folder.
        sampling: Sampling settings of the candidates.
        instruction: Text appended to each question, see `Item.prompt`.
        model: Values that identify the model; part of the settings of the journals.
        max_refused: Largest fraction of the questions that may be skipped.
        critics: Values that identify each critic that has scored, by its name.
        seconds: Duration of each stage.
    """

    benchmark: Questions
    metric: Metric
    selectors: Mapping[str, Selector]
    folder: Path
    sampling: Sampling
    instruction: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    max_refused: float = 0.0
    critics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._skipped: dict[str, str] = {}
        for item in self.benchmark.items:
            if wrong := self.metric.check(item.target):
                self._skipped[item.key] = wrong
        self._check_skipped()

    @property
    def questions(self) -> list[Question]:
        """Questions with options and instruction, without the skipped ones."""
        return [item.question(self.instruction) for item in self._asked()]

    def draw(self, answering: Answering, progress: Progress | None = None) -> None:
        """Generates the missing candidates.

        Args:
            answering: Generates the candidates.
            progress: Called after each question.

        Raises:
            DataError: Too many questions are skipped, or the folder has candidates of a run with other settings.
        """
        begin = time.perf_counter()
        questions = self.questions
        with self._candidates() as journal:

            def skip(question: Question, error: SampleError) -> None:
                self._skipped[question.key] = str(error)
                self._check_skipped()

            for question, answers in answering(questions, progress=progress, done=set(journal.done), refuse=skip):
                journal.add({"key": question.key, "candidates": answers.texts, "cut": answers.cut})
        self.seconds["candidates"] = time.perf_counter() - begin

    def score(self, critic: str, scoring: Scoring, known: Mapping[str, Any], progress: Progress | None = None) -> None:
        """Scores the candidates that a critic has not scored yet. Candidates that cannot be scored have no scores.

        Args:
            critic: Name of the critic, as in `BestOfN`.
            scoring: Scores the solutions.
            known: Values that identify the critic.
            progress: Called before each group of questions and at the end.

        Raises:
            DataError: The folder has scores of a run with other settings.
        """
        begin = time.perf_counter()
        self.critics[critic] = known
        texts = self._texts()
        reasons: dict[str, list[str]] = {}

        def skip(solution: Solution, error: SampleError) -> None:
            reasons.setdefault(solution.question.key, []).append(str(error))

        every = [question for question in self.questions if question.key in texts]
        with self._scores(critic) as journal:
            left = [question for question in every if question.key not in journal.done]
            for first in range(0, len(left), _SCORED_TOGETHER):
                if progress is not None:
                    progress(len(every) - len(left) + first, len(every))
                some = left[first : first + _SCORED_TOGETHER]
                solutions = [Solution(question, text) for question in some for text in texts[question.key]]
                scores = iter(scoring(solutions, refuse=skip))
                for question in some:
                    mine = [next(scores) for _ in texts[question.key]]
                    journal.add({"key": question.key, "scores": mine, "unjudged": reasons.get(question.key, [])})
            if progress is not None:
                progress(len(every), len(every))
        self.seconds[f"scores of {critic}"] = time.perf_counter() - begin

    def finish(self) -> dict[str, Any]:
        """Applies the selectors and writes the results, the report and the plot.

        Returns:
            Contents of `report.json`.

        Raises:
            DataError: No question has candidates.
        """
        results = self.results()
        lines = [json.dumps(result.line(), ensure_ascii=False) for result in results]
        figures = summary(results, self.metric)
        report = {
            "benchmark": self.benchmark.name,
            "metric": self.metric.title,
            **figures,
            "cut": self._cut([result.item.key for result in results]) / (figures["questions"] * figures["samples"]),
            "refused": [*self.benchmark.refused, *self._skipped_lines()],
            "unjudged": self._unjudged([result.item.key for result in results]),
            "settings": {
                "model": self.model.get("name", ""),
                "critics": {name: known.get("name", "") for name, known in self.critics.items()},
                "instruction": self.instruction,
                "sampling": asdict(self.sampling),
            },
            "seconds": {stage: round(seconds, 1) for stage, seconds in self.seconds.items()},
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "results.jsonl", "".join(line + "\n" for line in lines))
        text = json.dumps(report, indent=2, ensure_ascii=False)
        write_text(self.folder / "report.json", text + "\n")
        title = f"{self.benchmark.name}, {len(results)} questions"
        draw_accuracy(figures["figures"], self.folder / "accuracy.png", title, self.metric.title)
        written: dict[str, Any] = json.loads(text)
        return written

    def results(self) -> list[Result]:
        """Returns each question with its candidates and the selectors' choices, in the order of the benchmark.

        Raises:
            DataError: No question has candidates.
        """
        texts = self._texts()
        scores = {}
        for critic in self.critics:
            with self._scores(critic) as journal:
                scores[critic] = {key: record["scores"] for key, record in journal.done.items()}
        results = []
        for item in self._asked():
            if item.key in texts:
                mine = {critic: known[item.key] for critic, known in scores.items()}
                results.append(judge(item, texts[item.key], mine, self.metric, self.selectors))
        if not results:
            raise DataError(f"{self.benchmark.name}: no question has candidates")
        return results

    def _asked(self) -> list[Item]:
        return [item for item in self.benchmark.items if item.key not in self._skipped]

    def _skipped_lines(self) -> list[str]:
        return [f"{key}: {reason}" for key, reason in self._skipped.items()]

    def _cut(self, keys: Sequence[str]) -> int:
        """Counts the candidates cut off at the limit of new tokens; they are scored as they are."""
        with self._candidates() as journal:
            return sum(len(journal.done[key]["cut"]) for key in keys)

    def _unjudged(self, keys: Sequence[str]) -> list[str]:
        """Returns a line with the reason for each candidate that a critic could not score."""
        found = []
        for critic in self.critics:
            with self._scores(critic) as journal:
                found += [f"{critic}, {key}: {reason}" for key in keys for reason in journal.done[key]["unjudged"]]
        return found

    def _texts(self) -> dict[str, list[str]]:
        with self._candidates() as journal:
            return {key: record["candidates"] for key, record in journal.done.items()}

    def _candidates(self) -> Journal:
        return Journal(self.folder / "candidates.jsonl", self._settings())

    def _scores(self, critic: str) -> Journal:
        settings = {**self._settings(), "critic": _without_name(self.critics[critic])}
        return Journal(self.folder / f"scores-{critic}.jsonl", settings)

    def _settings(self) -> dict[str, Any]:
        return {
            "questions": self.benchmark.digest(self.instruction),
            "model": _without_name(self.model),
            "sampling": asdict(self.sampling),
        }

    def _check_skipped(self) -> None:
        total, name = len(self.benchmark.items), f"{self.benchmark.name}: "
        check_skipped(self._skipped_lines(), total, self.max_refused, "questions", "evaluated", name)


def _without_name(known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that identify a model independently of its path."""
    return {key: value for key, value in known.items() if key != "name"}
