"""Callback that writes the results of `test`: scores by kind of question, all answers and an image of answers."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.answer_sheet import Row, answer_sheet, brief, short
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.generation.answer_files import PictureFolder, Rows, check_finite
from mmcomponents.generation.base import Answer, AnswerKind, Sampler

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SECONDS = "train_seconds"
_ANSWERS, _PICTURES = "answers.jsonl", "answers"


@dataclass
class Answered:
    """Question of the test data with the model's answer.

    Attributes:
        key: Shard and key of its sample.
        kind: Kind of the question.
        question: Text of the question.
        answer: Correct answer, a text or values.
        prediction: The model's answer: a text, nested lists of values, or the path of a picture.
        form: What the model answered with.
        is_right: Whether a text equals the correct answer; None if one of them is no text: only texts are compared.
        notes: What stands beside a picture, see `Answer.notes`.
    """

    key: str
    kind: str
    question: str
    answer: Any
    prediction: Any
    form: AnswerKind
    is_right: bool | None
    notes: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Returns the line of `answers.jsonl`."""
        row = {name: getattr(self, name) for name in ("key", "kind", "question", "answer", "prediction")} | self.notes
        return row if self.is_right is None else row | {"is_right": self.is_right}


@dataclass
class _Collected:
    """Answers of this rank.

    Attributes:
        batches: Number of batches, including those without questions.
        answered: All questions.
        examples: Questions with images, of each kind as many as the image may show, with their rows.
    """

    batches: int = 0
    answered: list[Answered] = field(default_factory=list)
    examples: list[tuple[Answered, Row]] = field(default_factory=list)


class AnswerReport(Callback):
    """Writes `report.json`, `answers.jsonl`, `answers.png` and `example.png` into the run's folder after `test`.

    For answers of text, the report holds the share of exact matches for each kind of question, the share that always
    giving the kind's most frequent answer would reach, and the duration of training in seconds. Values and pictures are
    not compared: the report holds their number, and pictures are written as PNG files into `answers`, with the text
    that was written before one beside it; the report then counts the texts with boxes that cannot be read.

    Args:
        examples: Number of questions in the image.
    """

    def __init__(self, examples: int = 12) -> None:
        self.examples = examples
        self._collected = _Collected()
        self._seconds = 0.0
        self._started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the seconds of training so far, to which a resumed run adds."""
        return {_SECONDS: self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the training time of the resumed run."""
        self._seconds = state_dict[_SECONDS]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._seconds, self._started = self._elapsed(), None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears the answers, and the pictures of an earlier run."""
        self._collected = _Collected()
        if trainer.is_global_zero:
            PictureFolder(Path(trainer.default_root_dir), _PICTURES).clear()
        if trainer.world_size > 1:
            trainer.strategy.barrier()  # before another rank writes

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects the answers of a batch, and writes their pictures."""
        own = self._collected
        folder = PictureFolder(Path(trainer.default_root_dir), _PICTURES)
        if not own.batches:
            warn_of_other_answers(trainer, batch, getattr(pl_module, "sampler", None))
        number = own.batches * trainer.world_size + trainer.global_rank
        own.batches += 1
        fields = zip(batch.keys, batch.kinds, batch.questions, batch.answers, strict=True)
        for place, (asked, given) in enumerate(zip(fields, outputs["answers"], strict=True)):
            key, _, question, right = asked
            if given.picture is not None:
                prediction = folder.save(given.picture, key, number, place, given.reasoning)
            else:
                prediction = given.shown() if given.values is None else given.values.tolist()
            own.answered.append(Answered(*asked, prediction, given.kind, is_right(right, given), given.notes()))
            shown = sum(one.kind == asked[1] for one, _ in own.examples)
            if (picture := batch.pictures[place]) is not None and shown < self.examples:
                row = Row(picture, question, short(right), brief(given), own.answered[-1].is_right, given.picture)
                own.examples.append((own.answered[-1], row))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files.

        Raises:
            NonFiniteError: A value is NaN or infinite, which JSON does not have; raised on all ranks.
        """
        answered, rows = gather_lists(self._collected.answered), Rows()
        for one in answered:
            rows.add(one.row())
        check_finite(rows.refused, _ANSWERS)
        if not trainer.is_global_zero or not answered:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report = {**scores(answered), _SECONDS: round(self._elapsed(), 1)}
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / _ANSWERS).write_text("\n".join(rows.lines) + "\n")
        if examples := spread(self._collected.examples, self.examples):
            answer_sheet(examples).save(folder / "answers.png")
            # A single scene as an example for `mmcomponents generate`.
            scene = max(examples, key=lambda row: len(row.answer)).picture
            (folder / "example.png").write_bytes(scene or b"")  # examples have images

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)


def spread(examples: Sequence[tuple[Answered, Row]], number: int) -> list[Row]:
    """Returns rows of as many kinds as there are, in turn, and of each sample one."""
    kinds = {answered.kind: deque[tuple[Answered, Row]]() for answered, _ in examples}
    for example in examples:
        kinds[example[0].kind].append(example)
    chosen: dict[str, Row] = {}
    while any(kinds.values()):
        for left in kinds.values():
            while left and left[0][0].key in chosen:
                left.popleft()
            if left and len(chosen) < number:
                chosen[left[0][0].key] = left[0][1]
            elif left:
                left.clear()
    return list(chosen.values())


def warn_of_other_answers(trainer: Trainer, batch: PromptBatch, sampler: Sampler | None) -> None:
    """Warns of questions of the first batch that ask for something else than the sampler answers with."""
    others = [form for form in batch.forms if form and sampler is not None and form != sampler.answers]
    if others and sampler is not None and trainer.is_global_zero:
        logger.warning(
            "%d of the first %d questions ask for %s, and the sampler %s answers with %s: set model.sampler, or other"
            " data",
            *(len(others), len(batch), others[0], type(sampler).__name__, sampler.answers),
        )


def is_right(answer: Any, given: Answer) -> bool | None:
    """Returns whether a text equals the correct answer; None if one of them is no text."""
    return exact_match(answer, str(given.shown())) if given.kind == "text" and isinstance(answer, str) else None


def scores(answered: Sequence[Answered]) -> dict[str, Any]:
    """Returns the number of questions by kind, with exact match and majority baseline if all answers are texts."""
    by_kind: dict[str, list[Answered]] = defaultdict(list)
    for a in answered:
        by_kind[a.kind].append(a)
    kinds = sorted(by_kind)
    if any(a.is_right is None for a in answered):
        report: dict[str, Any] = {"answers": answered[0].form, "questions": {k: len(by_kind[k]) for k in kinds}}
        if any(a.notes for a in answered):
            report["unread_reasoning"] = sum(bool(a.notes.get("problems")) for a in answered)
        return report
    return {
        "exact_match": {k: sum(bool(a.is_right) for a in by_kind[k]) / len(by_kind[k]) for k in kinds},
        "baseline": {k: Counter(a.answer for a in by_kind[k]).most_common(1)[0][1] / len(by_kind[k]) for k in kinds},
        "questions": {k: len(by_kind[k]) for k in kinds},
    }


def gather_lists(own: list[T]) -> list[T]:
    """Concatenates the lists of all ranks; returns the own list without a process group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    lists: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(lists, own)
    return [value for rank in lists for value in rank]
