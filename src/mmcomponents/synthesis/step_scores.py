"""Scores of the steps of a model's own solutions, estimated from completions.

The expected accuracy of a step is the share of completions, drawn from the solution up to this step, that end with the
correct answer; a step is good if it is above the threshold (VisualPRM, arXiv 2503.10291, section 3.1). The only
completion of the last step is the solution itself. Solutions and completions that were truncated at the limit of new
tokens count as wrong, as their answer is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.critic_prompt import SYSTEM, WORDS, critique, question_text
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.model import MultimodalModel
from mmcomponents.synthesis.checker import Checker
from mmcomponents.synthesis.drawing import (
    Drawer,
    DrawOptions,
    DrawReport,
    groups,
    make_record,
    model_digest,
    open_drawer,
    write_shards,
)
from mmcomponents.synthesis.questions import Item, Questions
from mmcomponents.synthesis.rollout import Answers, Question, Sampling
from mmcomponents.synthesis.steps import SEPARATOR, split_steps

PROCESS, OUTCOME = "process", "outcome"
"""Names of the shards: every step scored, and the complete solution scored."""


@dataclass(frozen=True)
class Step:
    """A step with its score.

    Attributes:
        text: Text of the step.
        correct: Number of completions that end with the correct answer.
        total: Number of completions.
        cut: Number of completions that were truncated at the limit of new tokens.
    """

    text: str
    correct: int
    total: int
    cut: int = 0

    @property
    def score(self) -> float:
        """Expected accuracy."""
        return self.correct / self.total


@dataclass
class StepReport(DrawReport):
    """Counts of a run.

    Attributes:
        solutions: Number of drawn solutions.
        equal: Number of omitted solutions that were drawn before for the same question.
        empty: Number of omitted solutions without text.
        cut: Number of solutions that were truncated at the limit of new tokens; they count as wrong.
        unscored: Number of omitted solutions with a step that is too long to be completed.
        one_sided: Number of solutions omitted by `mixed_only`, as the question is always or never answered correctly.
        correct: Number of correct solutions among those kept.
        steps: Number of steps of the solutions kept.
        good: Number of steps above the threshold.
        completions: Number of completions that the scores are based on.
        completions_cut: Number of these that were truncated at the limit of new tokens; they count as wrong.
    """

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

    @property
    def used(self) -> int:
        """Number of solutions kept."""
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
    options: DrawOptions | None = None,
) -> StepReport:
    """Draws solutions, scores their steps, and writes conversations for a critic as indexed shards.

    `process-*.tar` contains a score for every step, `outcome-*.tar` for the complete solution, `steps.jsonl` the raw
    scores. Draws are stored in `journal.jsonl`: an interrupted call resumes from there and produces the same bytes.

    Args:
        model: Model that answers.
        renderer: Renders its prompts and images.
        questions: Questions with reference answers.
        out: Output folder; created if missing.
        sampling: Sampling settings of the solutions; VisualPRM uses 4 samples at temperature 1.
        checker: Checks the answers.
        completions: Number of completions per step, with the same settings; solutions with equal beginnings share them.
        max_steps: Maximum number of steps of a solution, see `split_steps`.
        threshold: A step is good if its score is greater.
        mixed_only: Whether to omit the solutions of questions that are always or never answered correctly. If the model
            cannot answer a question, all steps are bad from the first one on, whether they are wrong or not.
        until_error: Whether to omit the steps after the first bad one from `process-*.tar` (like the labels of PRM800K,
            arXiv 2305.20050), as they are bad regardless of their content. VisualPRM includes them.
        system: System text of the critic; None: none.
        options: Limits; None: defaults.

    Raises:
        DataError: Too many questions are skipped, or the folder contains answers of other settings.
        ValueError: A number is out of its range.
    """
    if completions < 1 or not 0 <= threshold < 1:
        raise ValueError(f"need completions of at least 1 and 0 <= threshold < 1, got {completions} and {threshold}")
    split_steps("", max_steps)  # validates max_steps before anything is drawn
    out, options = Path(out), options or DrawOptions()
    makes = {"makes": "steps", "checker": repr(checker), "completions": completions, "max_steps": max_steps}
    makes |= {"mixed_only": mixed_only}  # omitted solutions are not completed either
    completing = replace(sampling, samples=completions, greedy_first=False)
    with open_drawer(model, renderer, questions, out, sampling, makes, options) as drawer:
        for some in groups(questions):
            drawer.draw("solutions", [item.question() for item in some], sampling)
            prefixes = dict[str, Question]()
            references = dict[str, tuple[str, ...]]()
            for item in some:
                if mixed_only and _one_sided(_marks(item, drawer, checker)):
                    continue
                for question in _prefixes(item, drawer, max_steps):
                    prefixes[question.key], references[question.key] = question, item.target.references
            record = partial(_checked, checker=checker, references=references)
            drawer.draw("completions", list(prefixes.values()), completing, record)
    report = StepReport(out, len(questions.items) + len(questions.refused), len(questions.refused))
    scored = [
        (f"{number:07d}-{place:02d}", item, text, steps)
        for number, item in enumerate(questions.items)
        for place, (text, steps) in enumerate(_scored(item, drawer, checker, max_steps, mixed_only, report))
    ]
    _write(scored, renderer, _Verdicts(threshold, until_error, system), options.samples_per_shard, report)
    settings = {"model": model_digest(model), "sampling": asdict(sampling), "completions": completions}
    settings |= {"max_steps": max_steps, "threshold": threshold, "checker": repr(checker)}
    settings |= {"mixed_only": mixed_only, "until_error": until_error, "system": system}
    report.write("steps.json", settings)
    return report


def _solutions(item: Item, drawer: Drawer) -> list[str]:
    """Returns the distinct, non-empty solutions of a question."""
    return [text for text in dict.fromkeys(drawer.answers(item.key).texts) if text.strip()]


def _marks(item: Item, drawer: Drawer, checker: Checker) -> dict[str, bool]:
    """Returns whether each solution of a question is correct."""
    whole = set(drawer.answers(item.key).whole)
    return {text: text in whole and checker(text, *item.target.references) is True for text in _solutions(item, drawer)}


def _one_sided(marks: Mapping[str, bool]) -> bool:
    return len(set(marks.values())) < 2


def _prefixes(item: Item, drawer: Drawer, max_steps: int) -> Iterator[Question]:
    """Yields the prefixes to complete: each solution up to each step but the last."""
    for text in _solutions(item, drawer):
        steps = split_steps(text, max_steps)
        for count in range(1, len(steps)):
            yield _prefix(item, steps[:count])


def _prefix(item: Item, steps: Sequence[str]) -> Question:
    # ends with a blank line, so that a completion starts a new step instead of continuing this one
    prefix = "".join(f"{step}{SEPARATOR}" for step in steps)
    digest = hashlib.sha256(prefix.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return replace(item.question(), key=f"{item.key}/from/{digest}", prefix=prefix)


def _checked(
    question: Question, answers: Answers, checker: Checker, references: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    known = references[question.key]
    right = sum(checker(question.prefix + text, *known) is True for text in answers.whole)
    return {"correct": right, "total": len(answers.texts), "cut": len(answers.cut)}


def _scored(
    item: Item, drawer: Drawer, checker: Checker, max_steps: int, mixed_only: bool, report: StepReport
) -> list[tuple[str, list[Step]]]:
    """Returns the solutions of a question with their steps, without those that have a step that was skipped."""
    if drawer.error(item.key) is not None:
        report.refused += 1
        return []
    found = list[tuple[str, list[Step]]]()
    answers, solutions = drawer.answers(item.key), _solutions(item, drawer)
    whole = set(answers.whole)
    filled = sum(bool(text.strip()) for text in answers.texts)
    report.solutions += len(answers.texts)
    report.empty += len(answers.texts) - filled
    report.cut += len(answers.cut)
    report.equal += filled - len(solutions)
    marks = _marks(item, drawer, checker)
    if mixed_only and _one_sided(marks):
        report.one_sided += len(solutions)
        return []
    for text in solutions:
        steps = split_steps(text, max_steps)
        keys = [_prefix(item, steps[:count]).key for count in range(1, len(steps))]
        if any(drawer.error(key) is not None for key in keys):
            report.unscored += 1
            continue
        right = marks[text]
        notes = [drawer.journal.done[key] for key in keys]
        counts = [(note["correct"], note["total"], note["cut"]) for note in notes]
        counts.append((int(right), 1, int(text not in whole)))
        report.correct += right
        found.append((text, [Step(step, *count) for step, count in zip(steps, counts, strict=True)]))
    return found


@dataclass(frozen=True)
class _Verdicts:
    """Verdict words for the steps of a solution, and the system text."""

    threshold: float
    until_error: bool
    system: str | None

    def __call__(self, steps: Sequence[Step]) -> list[str]:
        """Returns a word for each step, with `until_error` up to the first bad one."""
        found = [WORDS[0] if step.score > self.threshold else WORDS[1] for step in steps]
        return found[: found.index(WORDS[1]) + 1] if self.until_error and WORDS[1] in found else found


_Scored = tuple[str, Item, str, list[Step]]
"""(key of a sample, question, solution, steps)."""


def _write(
    scored: Sequence[_Scored], renderer: SampleRenderer, verdicts: _Verdicts, samples_per_shard: int, report: StepReport
) -> None:
    """Writes the shards and `steps.jsonl`, and adds their counts to the report."""

    def samples(name: str) -> Iterator[tuple[str, dict[str, Any], Item]]:
        for key, item, text, steps in scored:
            judged = verdicts(steps) if name == PROCESS else verdicts(steps[-1:])
            parts = [step.text for step in steps[: len(judged)]] if name == PROCESS else [text]
            messages = critique(question_text(item.prompt()), parts, judged, verdicts.system)
            yield key, make_record(item, messages, name), item

    for name in (PROCESS, OUTCOME):
        report.shards += write_shards(report.out, name, samples(name), renderer, samples_per_shard)
    lines = [json.dumps(_raw(item, text, steps), ensure_ascii=False) + "\n" for _, item, text, steps in scored]
    write_text(report.out / "steps.jsonl", "".join(lines))
    words = [word for *_, steps in scored for word in verdicts(steps)]
    report.steps, report.good = len(words), words.count(WORDS[0])
    report.completions = sum(step.total for *_, steps in scored for step in steps)
    report.completions_cut = sum(step.cut for *_, steps in scored for step in steps)


def _raw(item: Item, text: str, steps: Sequence[Step]) -> dict[str, Any]:
    names = list(item.names)
    return {
        **({"image": names[0] if len(names) == 1 else names} if names else {}),
        "question_key": item.key,
        "question": question_text(item.prompt()),
        "answer": item.answer,
        "response": text,
        "steps_with_score": [
            {"step": step.text, "score": step.score, "num_mc_correct": step.correct, "num_mc_total": step.total}
            for step in steps
        ],
    }
