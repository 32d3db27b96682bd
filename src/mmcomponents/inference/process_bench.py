"""VisualProcessBench: how well a critic tells right steps from wrong ones (VisualPRM, arXiv 2503.10291, section 4)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_f1_score

from mmcomponents.data import DataError, SampleError, load_image
from mmcomponents.inference.critic import Critic, Progress, Solution
from mmcomponents.inference.drawing import model_digest
from mmcomponents.inference.evaluation.benchmarks import few
from mmcomponents.inference.journal import Journal
from mmcomponents.inference.rollouts import Media, Question

RIGHT, WRONG, NEUTRAL = 1, -1, 0
"""Labels of the benchmark. Neutral steps neither help nor harm, and do not count."""

REPORT, STEPS = "report.json", "steps.jsonl"


@dataclass(frozen=True)
class BenchRecord:
    """A solution with a label for each step.

    Attributes:
        key: Number of its line.
        solution: Question, images and steps.
        labels: `RIGHT`, `WRONG` or `NEUTRAL` for each step.
        source: Benchmark that the question is from.
        policy: Model that wrote the solution.
    """

    key: str
    solution: Solution
    labels: tuple[int, ...]
    source: str
    policy: str


@dataclass(frozen=True)
class StepScores:
    """What came out over some steps.

    Attributes:
        macro_f1: Mean of the two below.
        f1_right: F1 of the right steps.
        f1_wrong: F1 of the wrong steps.
        records: Solutions.
        right: Steps labelled right.
        wrong: Steps labelled wrong.
        neutral: Steps labelled neutral, which do not count.
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
    """The result of an evaluation.

    Attributes:
        overall: Over all steps of all sources together.
        sources: Over the steps of each source.
        threshold: A step was called right where its score was above this.
        refused: Records that could not be judged, with reasons.
    """

    overall: StepScores
    sources: dict[str, StepScores]
    threshold: float
    refused: list[str] = field(default_factory=list)


def read_process_bench(path: str | Path, image_root: str | Path) -> tuple[list[BenchRecord], list[str]]:
    """Reads VisualProcessBench's `test.jsonl`, or a file like it.

    Each line has `image` (a path or a list of them), `question`, `response` with `steps` and `process_correctness`, and
    `data_source`; `policy_model` may be there. An image that the question has no `<image>` for goes in front of it.

    Args:
        path: The file.
        image_root: Folder that paths of images begin in. Images are read when their turn comes.

    Returns:
        The records, and those that cannot be used, each as "file:line: reason".

    Raises:
        DataError: The file is missing, or none of its records can be used.
    """
    file = Path(path)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"the benchmark {file} cannot be read: {error.strerror}") from error
    records, refused = list[BenchRecord](), list[str]()
    shared: dict[tuple[str, ...], Media] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(str(number), line, Path(image_root), shared))
        except SampleError as error:
            refused.append(f"{file.name}:{number}: {error}")
    if not records:
        raise DataError(f"none of {len(refused)} records of {file} can be used{': ' + refused[0] if refused else ''}")
    return records, refused


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

    The metric is the mean of the F1 of right and of wrong steps; neutral ones are left out. The authors' own script is
    not public. Reports of others name 0.85 as the threshold that they used, which nothing that was published confirms.

    Args:
        critic: The critic. Steps are judged as the file has them, however many.
        path: See `read_process_bench`.
        image_root: See `read_process_bench`.
        threshold: A step is called right where its score is above this.
        out: Folder for `steps.jsonl`, from which a stopped evaluation goes on, and `report.json`; None: neither.
        progress: Called with (solutions done, solutions in all).
        max_refused: Largest share of the records that may be left out.

    Raises:
        DataError: The file cannot be used; too many of its records cannot be read or judged; or `out` has scores of
            another evaluation.
        ValueError: The threshold is no probability.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    records, refused = read_process_bench(path, image_root)
    total = len(records) + len(refused)
    check_refused(refused, total, max_refused, path)
    if out is None:
        scores: dict[str, list[float]] = {}
        _score(critic, records, path, refused, scores.__setitem__, progress, 0)
    else:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        settings = {"benchmark": digest, "weights": model_digest(critic.model), "critic": critic.settings()}
        with Journal(Path(out) / STEPS, settings) as journal:
            by_key = {record.key: record for record in records}

            def note(key: str, found: list[float]) -> None:
                record = by_key[key]
                told = {"source": record.source, "policy": record.policy, "labels": list(record.labels)}
                journal.add({"key": key, **told, "scores": found})

            left = [record for record in records if record.key not in journal.done]
            _score(critic, left, path, refused, note, progress, len(records) - len(left))
            scores = {key: done["scores"] for key, done in journal.done.items()}
    judged = [record for record in records if record.key in scores]
    if not judged:
        raise DataError(f"none of {len(records)} records of {path} could be judged: {refused[0]}")
    check_refused(refused, total, max_refused, path)
    report = process_report(judged, scores, threshold, refused)
    if out is not None:
        text = json.dumps(asdict(report), ensure_ascii=False, indent=2)
        Path(out).joinpath(REPORT).write_text(text + "\n", encoding="utf-8")
    return report


def check_refused(refused: list[str], total: int, max_refused: float, path: str | Path) -> None:
    """Judges what could not be used.

    Args:
        refused: What could not.
        total: All records, these among them.
        max_refused: Largest share that may be left out.
        path: Of the benchmark.

    Raises:
        DataError: It is more than that.
    """
    if len(refused) > max_refused * total:
        raise DataError(
            f"{len(refused)} of {total} records of {path} cannot be judged, more than max_refused {max_refused:g}:"
            f" {few(refused)}"
        )


def process_report(
    records: Iterable[BenchRecord], scores: Mapping[str, list[float]], threshold: float, refused: Iterable[str] = ()
) -> ProcessReport:
    """Makes figures of scores.

    Args:
        records: What was judged.
        scores: Of the steps of each, by its key.
        threshold: A step is called right where its score is above this.
        refused: What was not judged.
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
    steps = number[RIGHT], number[WRONG], number[NEUTRAL]
    return StepScores((right + wrong) / 2, right, wrong, len(records), *steps)


def _score(
    critic: Critic,
    records: list[BenchRecord],
    path: str | Path,
    refused: list[str],
    note: Callable[[str, list[float]], None],
    progress: Progress | None,
    before: int,
) -> None:
    """Judges records and notes each pack at once; adds to `refused` what cannot be judged."""
    name = Path(path).name

    def refuse(solution: Solution, error: SampleError) -> None:
        refused.append(f"{name}:{solution.question.key}: {error}")

    def tell(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, before + len(records))

    tell(0, 0)
    for number, found in critic.scores([record.solution for record in records], tell, refuse):
        note(records[number].key, found)


def _record(key: str, line: bytes, root: Path, shared: dict[tuple[str, ...], Media]) -> BenchRecord:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SampleError(f"no JSON: {error}") from error
    if not isinstance(record, dict):
        raise SampleError("no object with columns")
    missing = [name for name in ("image", "question", "response", "data_source") if name not in record]
    if missing:
        raise SampleError(f"without {', '.join(missing)}; there are {', '.join(record) or 'no columns'}")
    response = record["response"]
    if not isinstance(response, dict) or not {"steps", "process_correctness"} <= response.keys():
        raise SampleError("response is no object with steps and process_correctness")
    steps, labels = response["steps"], response["process_correctness"]
    if not isinstance(steps, list) or not isinstance(labels, list) or len(steps) != len(labels) or not steps:
        raise SampleError(f"{_size(steps)} steps and {_size(labels)} labels in process_correctness")
    if not all(isinstance(step, str) for step in steps):
        raise SampleError("a step is no text")
    if strange := [label for label in labels if isinstance(label, bool) or label not in (RIGHT, WRONG, NEUTRAL)]:
        raise SampleError(f"a label is {strange[0]!r}, and may be {RIGHT}, {WRONG} or {NEUTRAL}")
    question = _question(key, record["question"], record["image"], root, shared)
    solution = Solution(question, "", tuple(steps))
    source, policy = str(record["data_source"]), str(record.get("policy_model", ""))
    return BenchRecord(key, solution, tuple(map(int, labels)), source, policy)


def _question(key: str, text: Any, image: Any, root: Path, shared: dict[tuple[str, ...], Media]) -> Question:
    paths = [image] if isinstance(image, str) else [] if image is None else image
    if not isinstance(text, str) or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise SampleError("question is no text, or image no path or list of paths")
    if "<image>" not in text:
        text = "<image>\n" * len(paths) + text
    names = tuple(paths)
    # Several models have answered each question: their solutions share one function, and so its images.
    media = shared.setdefault(names, partial(_load, root, names)) if names else None
    return Question(key, [{"role": "user", "content": text}], media)


def _load(root: Path, paths: tuple[str, ...]) -> tuple[list[Image.Image], list[list[Image.Image]]]:
    return [load_image(root / path) for path in paths], []


def _size(value: Any) -> str:
    return str(len(value)) if isinstance(value, list) else "no list of"
