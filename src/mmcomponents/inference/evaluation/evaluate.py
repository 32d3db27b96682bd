"""An evaluation: candidates for each question, scores of critics, what selectors choose, and a report.

Candidates and scores are written down as they come, in `candidates.jsonl` and `scores-CRITIC.jsonl`: a run that was
stopped goes on from there. `results.jsonl` has a line for each question, `report.json` the figures, `accuracy.png` the
figures against the number of candidates.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.inference.critic import Solution
from mmcomponents.inference.evaluation.benchmarks import Benchmark, Item, few
from mmcomponents.inference.evaluation.metrics import Metric
from mmcomponents.inference.evaluation.outcome import Result, judge, summary
from mmcomponents.inference.evaluation.plot import draw_accuracy
from mmcomponents.inference.journal import Journal
from mmcomponents.inference.rollouts import Answers, Question, Sampling
from mmcomponents.inference.selectors import Selector

Progress = Callable[[int, int], None]
"""Is told (questions done, questions in all)."""

_SCORED_TOGETHER = 16
"""Questions whose candidates a critic scores in one call: what a run that is stopped may lose."""


class Answering(Protocol):
    """Draws candidates: `rollouts` with a model, a renderer and settings."""

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
        """Scores of each solution's steps, none of one that is refused."""


@dataclass
class Evaluation:
    """One benchmark, one model.

    Attributes:
        benchmark: The questions.
        metric: Says how right an answer is.
        selectors: By the names they have in the report.
        folder: Where the files go.
        sampling: How candidates are drawn.
        instruction: Text behind each question, see `Item.prompt`.
        model: What the model is: enough to tell it from another one. A part of the settings of the journals.
        max_refused: Largest share of the questions that may be left out.
        critics: What each critic is that has scored, by its name.
        seconds: Time that each stage took.
    """

    benchmark: Benchmark
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
        self._refused: dict[str, str] = {}
        for item in self.benchmark.items:
            if wrong := self.metric.check(item.target):
                self._refused[item.key] = wrong
        self._check_refused()

    @property
    def questions(self) -> list[Question]:
        """The questions as they are asked."""
        return [self._question(item) for item in self._asked()]

    def draw(self, answering: Answering, progress: Progress | None = None) -> None:
        """Draws the candidates that are missing.

        Args:
            answering: Answers questions.
            progress: Is told how far it is.

        Raises:
            DataError: Too many questions cannot be asked, or the folder has candidates of another run.
        """
        begin = time.perf_counter()
        questions = self.questions
        with self._candidates() as journal:

            def refuse(question: Question, error: SampleError) -> None:
                self._refused[question.key] = str(error)
                self._check_refused()

            for question, answers in answering(questions, progress=progress, done=set(journal.done), refuse=refuse):
                journal.add({"key": question.key, "candidates": answers.texts, "cut": answers.cut})
        self.seconds["candidates"] = time.perf_counter() - begin

    def score(self, critic: str, scoring: Scoring, known: Mapping[str, Any], progress: Progress | None = None) -> None:
        """Scores the candidates that a critic has not scored so far. One that it cannot judge has no scores.

        Args:
            critic: Its name: what `BestOfN` asks for.
            scoring: Scores solutions.
            known: What the critic is: enough to tell it from another one.
            progress: Is told how far it is.

        Raises:
            DataError: The folder has scores of another run.
        """
        begin = time.perf_counter()
        self.critics[critic] = known
        texts = self._texts()
        reasons: dict[str, list[str]] = {}

        def refuse(solution: Solution, error: SampleError) -> None:
            reasons.setdefault(solution.question.key, []).append(str(error))

        every = [question for question in self.questions if question.key in texts]
        with self._scores(critic) as journal:
            left = [question for question in every if question.key not in journal.done]
            for first in range(0, len(left), _SCORED_TOGETHER):
                if progress is not None:
                    progress(len(every) - len(left) + first, len(every))
                some = left[first : first + _SCORED_TOGETHER]
                solutions = [Solution(question, text) for question in some for text in texts[question.key]]
                scores = iter(scoring(solutions, refuse=refuse))
                for question in some:
                    mine = [next(scores) for _ in texts[question.key]]
                    journal.add({"key": question.key, "scores": mine, "unjudged": reasons.get(question.key, [])})
            if progress is not None:
                progress(len(every), len(every))
        self.seconds[f"scores of {critic}"] = time.perf_counter() - begin

    def finish(self) -> dict[str, Any]:
        """Lets the selectors choose, and writes the report.

        Returns:
            What stands in `report.json`.

        Raises:
            DataError: No question has candidates.
        """
        results = self.results()
        lines = [json.dumps(result.line(), ensure_ascii=False) for result in results]
        refused = [f"{key}: {reason}" for key, reason in self._refused.items()]
        figures = summary(results, self.metric)
        report = {
            "benchmark": self.benchmark.name,
            "metric": self.metric.title,
            **figures,
            "cut": self._cut([result.item.key for result in results]) / (figures["questions"] * figures["samples"]),
            "refused": [*self.benchmark.refused, *refused],
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
        _write(self.folder / "results.jsonl", "".join(line + "\n" for line in lines))
        text = json.dumps(report, indent=2, ensure_ascii=False)
        _write(self.folder / "report.json", text + "\n")
        title = f"{self.benchmark.name}, {len(results)} questions"
        draw_accuracy(figures["figures"], self.folder / "accuracy.png", title, self.metric.title)
        told: dict[str, Any] = json.loads(text)
        return told

    def results(self) -> list[Result]:
        """Each question with its candidates and what is chosen of them, in the benchmark's order.

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
            raise DataError(f"{self.benchmark.name}: no question could be answered")
        return results

    def _asked(self) -> list[Item]:
        return [item for item in self.benchmark.items if item.key not in self._refused]

    def _cut(self, keys: Sequence[str]) -> int:
        """Candidates that the limit of new tokens has ended: they are measured as they are."""
        with self._candidates() as journal:
            return sum(len(journal.done[key]["cut"]) for key in keys)

    def _unjudged(self, keys: Sequence[str]) -> list[str]:
        """The candidates that a critic could not judge, with the reasons."""
        found = []
        for critic in self.critics:
            with self._scores(critic) as journal:
                found += [f"{critic}, {key}: {reason}" for key in keys for reason in journal.done[key]["unjudged"]]
        return found

    def _question(self, item: Item) -> Question:
        return Question(item.key, item.prompt(self.instruction), item.media)

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

    def _check_refused(self) -> None:
        count = len(self.benchmark.items)
        if len(self._refused) > self.max_refused * count:
            lines = [f"{key}: {reason}" for key, reason in self._refused.items()]
            raise DataError(
                f"{self.benchmark.name}: {len(lines)} of {count} questions cannot be asked, more than max_refused"
                f" {self.max_refused:g}: {few(lines)}"
            )


def _without_name(known: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a model from another one, wherever it lies."""
    return {key: value for key, value in known.items() if key != "name"}


def _write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
