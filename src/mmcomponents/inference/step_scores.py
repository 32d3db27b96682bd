"""Scores of the steps of a model's own solutions, by how often one gets from there to the right answer.

The expected accuracy of a step is the share of completions, drawn from the solution up to this step, that end with the
right answer; a step with any above the threshold is good (VisualPRM, arXiv 2503.10291, section 3.1). The last step of a
solution is followed by nothing: the solution itself is its only completion. What was cut at the limit of new tokens is
wrong, a solution as well as a completion: what the end would have been is not known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmcomponents.data import SampleRenderer
from mmcomponents.data.annotations.state import write_whole
from mmcomponents.data.critique import SYSTEM, WORDS, critique, question_text
from mmcomponents.data.placeholders import place_image
from mmcomponents.inference.checking import Checker
from mmcomponents.inference.drawing import (
    TOGETHER,
    Drawer,
    Progress,
    draw_settings,
    model_digest,
    open_refusals,
    write_shards,
)
from mmcomponents.inference.journal import Journal
from mmcomponents.inference.questions import Asked, Questions
from mmcomponents.inference.rollouts import MAX_CACHE, Answers, Question, Sampling
from mmcomponents.inference.steps import SEPARATOR, split_steps
from mmcomponents.model import MultimodalModel

PROCESS, OUTCOME = "process", "outcome"
"""Names of the shards: every step judged, and the whole solution."""


@dataclass(frozen=True)
class Step:
    """A step with its score.

    Attributes:
        text: The step.
        correct: Completions that end with the right answer.
        total: Completions.
        cut: Of these, those that the limit of new tokens has ended.
    """

    text: str
    correct: int
    total: int
    cut: int = 0

    @property
    def score(self) -> float:
        """The expected accuracy."""
        return self.correct / self.total


@dataclass
class StepReport:
    """What came of the questions.

    Attributes:
        out: The folder.
        questions: All of them, those that could not be asked included.
        refused: Those that could not be asked.
        solutions: That were drawn.
        equal: Of these, those that were drawn before for the same question; they are left out.
        empty: Of these, those without any text; they are left out.
        cut: Of these, those that the limit of new tokens has ended; they count as wrong.
        unscored: Of these, those with a step that cannot be continued, being too long; they are left out.
        one_sided: Of these, those to questions that are answered rightly always or never, where they are left out.
        correct: Of those that are left, the right ones.
        steps: Of those that are left.
        good: Steps above the threshold.
        completions: That the scores come from.
        completions_cut: Of these, those that the limit of new tokens has ended; they count as wrong.
        shards: Names of the shards.
    """

    out: Path
    questions: int = 0
    refused: int = 0
    solutions: int = 0
    equal: int = 0
    empty: int = 0
    cut: int = 0
    unscored: int = 0
    one_sided: int = 0
    correct: int = 0
    steps: int = 0
    good: int = 0
    completions: int = 0
    completions_cut: int = 0
    shards: list[str] = field(default_factory=list)

    @property
    def used(self) -> int:
        """Solutions that are left."""
        return self.solutions - self.equal - self.empty - self.unscored - self.one_sided


def make_step_scores(
    model: MultimodalModel,
    renderer: SampleRenderer,
    questions: Questions,
    out: str | Path,
    sampling: Sampling,
    checker: Checker,
    *,
    completions: int = 16,
    max_steps: int = 12,
    threshold: float = 0.0,
    mixed_only: bool = False,
    until_error: bool = False,
    system: str | None = SYSTEM,
    max_refused: float = 0.01,
    samples_per_shard: int = 10_000,
    max_tokens: int = 16384,
    max_segments: int = 256,
    max_cache: int = MAX_CACHE,
    progress: Progress | None = None,
) -> StepReport:
    """Draws solutions, scores their steps, and writes conversations for a critic as shards with their indices.

    `process-*.tar` has every step judged, `outcome-*.tar` the whole solution, `steps.jsonl` the scores themselves. What
    was drawn is kept in `journal.jsonl`: a call that was stopped goes on from there, and ends with the same bytes.

    Args:
        model: Answers.
        renderer: Its tokenizer, tiling and so on.
        questions: With their references.
        out: Folder; made if it is missing.
        sampling: How solutions are drawn, `samples` of each question; VisualPRM takes 4 at a temperature of 1.
        checker: Judges the answers.
        completions: Drawn from each step, as the solutions are. Solutions that begin alike share them.
        max_steps: Steps of a solution at most, see `split_steps`.
        threshold: A step is good where its score is greater.
        mixed_only: Leave out the solutions of a question that is answered rightly always or never. A question that the
            model cannot answer has bad steps from the first one on, whether they are wrong or not.
        until_error: In `process-*.tar`, leave out the steps after the first bad one (as the labels of PRM800K end,
            arXiv 2305.20050): they are bad whatever they say. VisualPRM judges them too.
        system: What critics are told; None: nothing.
        max_refused: Largest share of questions that may be unusable.
        samples_per_shard: Solutions of a shard at most.
        max_tokens: See `rollouts`.
        max_segments: See `rollouts`.
        max_cache: See `rollouts`.
        progress: Is told of each batch.

    Raises:
        DataError: Too many questions cannot be used, or the folder holds the answers of other settings.
        ValueError: A number is out of its range.
    """
    if completions < 1 or samples_per_shard < 1 or not 0 <= threshold < 1:
        raise ValueError(
            f"need completions and samples_per_shard of at least 1 and 0 <= threshold < 1, got {completions},"
            f" {samples_per_shard} and {threshold}"
        )
    split_steps("", max_steps)  # refuses a wrong number before anything is drawn
    out, batching = Path(out), (max_tokens, max_segments, max_cache)
    refusals = open_refusals(questions, max_refused)
    settings = {"makes": "steps", "checker": repr(checker), "completions": completions, "max_steps": max_steps}
    settings |= {"mixed_only": mixed_only}  # what is left out is not completed either
    settings |= draw_settings(model, renderer, sampling, questions, batching)
    going_on = replace(sampling, samples=completions, greedy_first=False)
    with Journal(out / "journal.jsonl", settings) as journal:
        drawer = Drawer(model, renderer, journal, refusals, batching, progress)
        for first in range(0, len(questions.asked), TOGETHER):
            some = questions.asked[first : first + TOGETHER]
            drawer.draw("solutions", [one.question for one in some], sampling)
            prefixes = dict[str, Question]()
            references = dict[str, str]()
            for one in some:
                if mixed_only and _one_sided(_marks(one, journal, checker)):
                    continue
                for question in _prefixes(one, journal, max_steps):
                    prefixes[question.key], references[question.key] = question, one.reference or ""
            record = partial(_checked, checker=checker, references=references)
            drawer.draw("completions", list(prefixes.values()), going_on, record)
    report = StepReport(out, len(questions.asked) + len(questions.problems), len(questions.problems))
    scored = [_scored(one, journal, checker, max_steps, mixed_only, report) for one in questions.asked]
    _write(out, questions.asked, scored, renderer, _Words(threshold, until_error, system), samples_per_shard, report)
    told = {"model": model_digest(model), "sampling": asdict(sampling), "completions": completions}
    told |= {"max_steps": max_steps, "threshold": threshold, "checker": repr(checker)}
    told |= {"mixed_only": mixed_only, "until_error": until_error, "system": system}
    counts = {name: value for name, value in asdict(report).items() if name != "out"}
    write_whole(out / "steps.json", json.dumps({"settings": told, **counts}, indent=2) + "\n")
    return report


def _solutions(one: Asked, journal: Journal) -> list[str]:
    """The solutions of a question, each once and none without text."""
    texts = journal.done[one.question.key].get("texts", [])
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _whole(note: Mapping[str, Any]) -> set[str]:
    """Solutions that the limit of new tokens has not ended."""
    return {text for number, text in enumerate(note["texts"]) if number not in note["cut"]}


def _marks(one: Asked, journal: Journal, checker: Checker) -> dict[str, bool]:
    """Whether each solution of a question is right."""
    note = journal.done[one.question.key]
    whole = set() if "error" in note else _whole(note)
    return {text: text in whole and checker(text, one.reference or "") is True for text in _solutions(one, journal)}


def _one_sided(marks: Mapping[str, bool]) -> bool:
    return len(set(marks.values())) < 2


def _prefixes(one: Asked, journal: Journal, max_steps: int) -> Iterator[Question]:
    """What completions go on from: each solution up to each step but the last."""
    for text in _solutions(one, journal):
        steps = split_steps(text, max_steps)
        for count in range(1, len(steps)):
            yield _prefix(one, steps[:count])


def _prefix(one: Asked, steps: Sequence[str]) -> Question:
    # With the blank line: a completion begins a new step, and is not taken for more of this one.
    prefix = "".join(f"{step}{SEPARATOR}" for step in steps)
    digest = hashlib.sha256(prefix.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return replace(one.question, key=f"{one.question.key}/from/{digest}", prefix=prefix)


def _checked(question: Question, answers: Answers, checker: Checker, references: Mapping[str, str]) -> dict[str, Any]:
    reference = references[question.key]
    whole = [text for number, text in enumerate(answers.texts) if number not in answers.cut]
    right = sum(checker(question.prefix + text, reference) is True for text in whole)
    return {"correct": right, "total": len(answers.texts), "cut": len(answers.cut)}


def _scored(
    one: Asked, journal: Journal, checker: Checker, max_steps: int, mixed_only: bool, report: StepReport
) -> list[tuple[str, list[Step]]]:
    """The solutions of a question with their steps; those with a step that could not be scored are left out."""
    note = journal.done[one.question.key]
    if "error" in note:
        report.refused += 1
        return []
    found = list[tuple[str, list[Step]]]()
    report.solutions += len(note["texts"])
    report.empty += sum(not text.strip() for text in note["texts"])
    report.cut += len(note["cut"])
    whole = _whole(note)
    solutions = _solutions(one, journal)
    report.equal += sum(bool(text.strip()) for text in note["texts"]) - len(solutions)
    marks = _marks(one, journal, checker)
    if mixed_only and _one_sided(marks):
        report.one_sided += len(solutions)
        return []
    for text in solutions:
        steps = split_steps(text, max_steps)
        notes = [journal.done[_prefix(one, steps[:count]).key] for count in range(1, len(steps))]
        if any("error" in taken for taken in notes):
            report.unscored += 1
            continue
        right = marks[text]
        counts = [(taken["correct"], taken["total"], taken["cut"]) for taken in notes]
        counts.append((int(right), 1, int(text not in whole)))
        report.correct += right
        found.append((text, [Step(step, *count) for step, count in zip(steps, counts, strict=True)]))
    return found


@dataclass(frozen=True)
class _Words:
    """What is said of the steps of a solution, and to whom."""

    threshold: float
    until_error: bool
    system: str | None

    def __call__(self, steps: Sequence[Step]) -> list[str]:
        """A word for each step, or for those up to the first bad one."""
        found = [WORDS[0] if step.score > self.threshold else WORDS[1] for step in steps]
        return found[: found.index(WORDS[1]) + 1] if self.until_error and WORDS[1] in found else found


def _write(
    out: Path,
    asked: Sequence[Asked],
    scored: Sequence[list[tuple[str, list[Step]]]],
    renderer: SampleRenderer,
    verdicts: _Words,
    samples_per_shard: int,
    report: StepReport,
) -> None:
    every = [
        (f"{number:07d}-{place:02d}", one, text, steps)
        for number, (one, found) in enumerate(zip(asked, scored, strict=True))
        for place, (text, steps) in enumerate(found)
    ]

    def samples(name: str) -> Iterator[tuple[str, dict[str, Any], Asked]]:
        for key, one, text, steps in every:
            words = verdicts(steps) if name == PROCESS else verdicts(steps[-1:])
            parts = [step.text for step in steps[: len(words)]] if name == PROCESS else [text]
            messages = [dict(message) for message in critique(_question_text(one), parts, words, verdicts.system)]
            record = {"messages": messages, "source": one.source or name, "question_key": one.question.key}
            yield key, record if one.clips is None else {**record, "clips": one.clips}, one

    for name in (PROCESS, OUTCOME):
        paths = write_shards(out, name, samples(name), renderer, samples_per_shard)
        report.shards += [path.name for path in paths]
    lines = [json.dumps(_raw(one, text, steps), ensure_ascii=False) + "\n" for _, one, text, steps in every]
    write_whole(out / "steps.jsonl", "".join(lines))
    said = [word for *_, steps in every for word in verdicts(steps)]
    report.steps, report.good = len(said), said.count(WORDS[0])
    report.completions = sum(step.total for *_, steps in every for step in steps)
    report.completions_cut = sum(step.cut for *_, steps in every for step in steps)


def _question_text(one: Asked) -> str:
    """What was asked, with the places of images; earlier turns stand before it."""
    return question_text(place_image(one.question.messages, one.images))


def _raw(one: Asked, text: str, steps: Sequence[Step]) -> dict[str, Any]:
    names = list(one.names)
    return {
        **({"image": names[0] if len(names) == 1 else names} if names else {}),
        "question_key": one.question.key,
        "question": _question_text(one),
        "answer": one.reference,
        "response": text,
        "steps_with_score": [
            {"step": step.text, "score": step.score, "num_mc_correct": step.correct, "num_mc_total": step.total}
            for step in steps
        ],
    }
