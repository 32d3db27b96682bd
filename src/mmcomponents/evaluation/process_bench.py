"""Evaluation of critics on VisualProcessBench (VisualPRM, arXiv 2503.10291, section 4)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional.classification import multiclass_f1_score

from mmcomponents.data.convert.media_files import MediaRoot
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.storage.atomic_write import write_text
from mmcomponents.evaluation.critic import Critic, Progress, Solution
from mmcomponents.evaluation.readers.jsonl import read_lines, read_question
from mmcomponents.evaluation.readers.question_rows import Shown
from mmcomponents.synthesis.drawing import model_digest
from mmcomponents.synthesis.journal import Journal
from mmcomponents.synthesis.questions import check_skipped
from mmcomponents.synthesis.rollout import Question

RIGHT, WRONG, NEUTRAL = 1, -1, 0
"""Step labels of the benchmark. Neutral steps are excluded from the metric."""

REPORT, STEPS = "report.json", "steps.jsonl"


@dataclass(frozen=True)
class BenchRecord:
    """A solution with a label for each step.

    Attributes:
        key: Line number.
        solution: Question, images and steps.
        labels: `RIGHT`, `WRONG` or `NEUTRAL` for each step.
        source: Benchmark of the question.
        policy: Model that generated the solution.
    """

    key: str
    solution: Solution
    labels: tuple[int, ...]
    source: str
    policy: str


@dataclass(frozen=True)
class StepScores:
    """Metrics over a set of steps.

    Attributes:
        macro_f1: Mean of `f1_right` and `f1_wrong`.
        f1_right: F1 of the right steps.
        f1_wrong: F1 of the wrong steps.
        records: Number of solutions.
        right: Number of steps labelled right.
        wrong: Number of steps labelled wrong.
        neutral: Number of steps labelled neutral, which are excluded.
    """

    macro_f1: float
    f1_right: float
    f1_wrong: float
    records: int
    right: int
    wrong: int
    neutral: int


@dataclass(frozen=True)
class ProcessReport:
    """Result of an evaluation.

    Attributes:
        overall: Metrics over all steps of all sources.
        sources: Metrics over the steps of each source.
        threshold: Steps with a score above this are classified as right.
        refused: Skipped records with reasons.
    """

    overall: StepScores
    sources: dict[str, StepScores]
    threshold: float
    refused: list[str] = field(default_factory=list)


def read_process_bench(path: str | Path, image_root: str | Path) -> tuple[list[BenchRecord], list[str]]:
    """Reads `test.jsonl` of VisualProcessBench, or a file of the same format.

    Each line has `image` (a path or a list of paths), `question`, `response` with `steps` and `process_correctness`,
    `data_source` and optionally `policy_model`. The images of a question without `<image>` are placed before its text.

    Args:
        path: Path of the file.
        image_root: Folder that image paths are relative to. The files must exist; they are read later.

    Returns:
        The records, and a line "file:line: reason" for each skipped record.

    Raises:
        DataError: The file is missing, or all of its records are skipped.
    """
    file, root = Path(path), MediaRoot(Path(image_root), allow_outside=True)
    records, skipped = list[BenchRecord](), list[str]()
    # solutions of several models to one question share a loader, so that images are encoded once
    media: dict[tuple[str, ...], Shown] = {}
    for found in read_lines(file, lambda number, record: _record(str(number), record, root, media)):
        if isinstance(found, str):
            skipped.append(found)
        else:
            records.append(found)
    if not records:
        raise DataError(f"none of {len(skipped)} records of {file} can be used{': ' + skipped[0] if skipped else ''}")
    return records, skipped


def evaluate_process(
    critic: Critic,
    path: str | Path,
    image_root: str | Path,
    threshold: float = 0.5,
    out: str | Path | None = None,
    progress: Progress | None = None,
    max_refused: float = 0.01,
) -> ProcessReport:
    """Scores every step of VisualProcessBench with a critic.

    The metric is the mean of the F1 of right steps and the F1 of wrong steps; neutral steps are excluded. The authors'
    script is not public. Third-party reports name 0.85 as the threshold that was used; no publication confirms it.

    Args:
        critic: The critic. The steps of the file are scored without merging.
        path: See `read_process_bench`.
        image_root: See `read_process_bench`.
        threshold: Steps with a score above this are classified as right.
        out: Folder for `steps.jsonl`, from which an interrupted evaluation resumes, and `report.json`; None: no files.
        progress: Called with (solutions done, total).
        max_refused: Largest fraction of the records that may be skipped.

    Raises:
        DataError: The file cannot be used, too many records are skipped, or `out` has scores of an evaluation with
            other settings.
        ValueError: The threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    records, skipped = read_process_bench(path, image_root)
    total = len(records) + len(skipped)
    check_skipped(skipped, total, max_refused, f"records of {path}", "scored")
    if out is None:
        scores: dict[str, list[float]] = {}
        _score(critic, records, path, skipped, scores.__setitem__, progress, 0)
    else:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        settings = {"benchmark": digest, "weights": model_digest(critic.model), "critic": critic.settings()}
        with Journal(Path(out) / STEPS, settings) as journal:
            by_key = {record.key: record for record in records}

            def note(key: str, found: list[float]) -> None:
                record = by_key[key]
                origin = {"source": record.source, "policy": record.policy}
                journal.add({"key": key, **origin, "labels": list(record.labels), "scores": found})

            left = [record for record in records if record.key not in journal.done]
            _score(critic, left, path, skipped, note, progress, len(records) - len(left))
            scores = {key: done["scores"] for key, done in journal.done.items()}
    scored = [record for record in records if record.key in scores]
    if not scored:
        raise DataError(f"none of {len(records)} records of {path} could be scored: {skipped[0]}")
    check_skipped(skipped, total, max_refused, f"records of {path}", "scored")
    report = process_report(scored, scores, threshold, skipped)
    if out is not None:
        text = json.dumps(asdict(report), ensure_ascii=False, indent=2)
        write_text(Path(out) / REPORT, text + "\n")
    return report


def process_report(
    records: Iterable[BenchRecord], scores: Mapping[str, list[float]], threshold: float, refused: Iterable[str] = ()
) -> ProcessReport:
    """Computes the report from scores.

    Args:
        records: Scored records.
        scores: Scores of the steps of each record, by its key.
        threshold: Steps with a score above this are classified as right.
        refused: Lines about skipped records.
    """
    by_source: dict[str, list[BenchRecord]] = {}
    for record in records:
        by_source.setdefault(record.source, []).append(record)
    every = [record for group in by_source.values() for record in group]
    sources = {source: _figures(group, scores, threshold) for source, group in sorted(by_source.items())}
    return ProcessReport(_figures(every, scores, threshold), sources, threshold, list(refused))


def _figures(records: list[BenchRecord], scores: Mapping[str, list[float]], threshold: float) -> StepScores:
    labels = torch.tensor([label for record in records for label in record.labels])
    called = torch.tensor([score for record in records for score in scores[record.key]]) > threshold
    counted = labels != NEUTRAL
    right, wrong = 0.0, 0.0
    if counted.any():
        truth = (labels[counted] == RIGHT).long()
        f1 = multiclass_f1_score(called[counted].long(), truth, num_classes=2, average="none")
        wrong, right = f1.tolist()
    number = Counter(labels.tolist())
    macro_f1 = (right + wrong) / 2
    return StepScores(macro_f1, right, wrong, len(records), number[RIGHT], number[WRONG], number[NEUTRAL])


def _score(
    critic: Critic,
    records: list[BenchRecord],
    path: str | Path,
    skipped: list[str],
    note: Callable[[str, list[float]], None],
    progress: Progress | None,
    before: int,
) -> None:
    """Scores records, calls `note` after each pack, and appends a line to `skipped` for each record without scores."""
    name = Path(path).name

    def skip(solution: Solution, error: SampleError) -> None:
        skipped.append(f"{name}:{solution.question.key}: {error}")

    def advance(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, before + len(records))

    advance(0, 0)
    for number, found in critic.scores([record.solution for record in records], advance, skip):
        note(records[number].key, found)


def _record(key: str, record: dict[str, Any], root: MediaRoot, media: dict[tuple[str, ...], Shown]) -> BenchRecord:
    missing = [name for name in ("image", "question", "response", "data_source") if name not in record]
    if missing:
        raise SampleError(f"no {', '.join(missing)}; its keys are: {', '.join(record) or 'none'}")
    response = record["response"]
    if not isinstance(response, dict) or not {"steps", "process_correctness"} <= response.keys():
        raise SampleError("response is not an object with steps and process_correctness")
    steps, labels = response["steps"], response["process_correctness"]
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise SampleError(f"{_size(steps)} steps and {_size(labels)} labels in process_correctness")
    if not all(isinstance(step, str) for step in steps):
        raise SampleError("a step is not a string")
    if invalid := [label for label in labels if isinstance(label, bool) or label not in (RIGHT, WRONG, NEUTRAL)]:
        raise SampleError(f"label {invalid[0]!r} is not {RIGHT}, {WRONG} or {NEUTRAL}")
    item = read_question(key, record, root, media, answers=False)
    question = Question(key, item.messages, item.media)
    source, policy = str(record["data_source"]), str(record.get("policy_model", ""))
    return BenchRecord(key, Solution(question, "", tuple(steps)), tuple(map(int, labels)), source, policy)


def _size(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else "no list of"
