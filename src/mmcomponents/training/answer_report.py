"""Callback that writes the results of `test`: scores by kind of question, all answers and an image of answers."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.training.answer_sheet import answer_sheet

T = TypeVar("T")

_SECONDS = "train_seconds"


@dataclass
class Answered:
    """Question of the test data with the model's answer."""

    key: str
    kind: str
    question: str
    answer: str
    prediction: str

    @property
    def is_right(self) -> bool:
        """Whether the prediction equals the answer."""
        return exact_match(self.answer, self.prediction)


class AnswerReport(Callback):
    """Writes `report.json`, `answers.jsonl`, `answers.png` and `example.png` into the run's folder after `test`.

    The report holds the share of exact matches for each kind of question, the share that always giving the kind's most
    frequent answer would reach, and the duration of training in seconds.

    Args:
        examples: Number of questions in the image.
    """

    def __init__(self, examples: int = 12) -> None:
        self.examples = examples
        self.answered: list[Answered] = []
        self.pictures: list[tuple[bytes, Answered]] = []
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
        """Clears the answers."""
        self.answered, self.pictures = [], []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collects the answers of a batch."""
        fields = zip(batch.keys, batch.kinds, batch.questions, batch.answers, outputs["answers"], strict=True)
        for picture, row in zip(batch.pictures, fields, strict=True):
            answered = Answered(*row)
            self.answered.append(answered)
            shown = sum(a.kind == answered.kind for _, a in self.pictures)
            # One question per scene and a limited number per kind, so that the image shows all kinds.
            new = all(answered.key != a.key for _, a in self.pictures)
            if new and picture is not None and len(self.pictures) < self.examples and shown <= self.examples // 5:
                self.pictures.append((picture, answered))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        answered = gather_lists(self.answered)
        if not trainer.is_global_zero or not answered:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report = {**scores(answered), _SECONDS: round(self._elapsed(), 1)}
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        lines = [json.dumps({**asdict(a), "is_right": a.is_right}, ensure_ascii=False) for a in answered]
        (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
        if self.pictures:
            rows = [(p, a.question, a.answer, a.prediction, a.is_right) for p, a in self.pictures]
            answer_sheet(rows).save(folder / "answers.png")
            # A single scene as an example for `mmcomponents generate`.
            (folder / "example.png").write_bytes(max(self.pictures, key=lambda pair: len(pair[1].answer))[0])

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)


def scores(answered: list[Answered]) -> dict[str, Any]:
    """Computes exact match, majority baseline and number of questions by kind."""
    by_kind: dict[str, list[Answered]] = defaultdict(list)
    for a in answered:
        by_kind[a.kind].append(a)
    kinds = sorted(by_kind)
    return {
        "exact_match": {k: sum(a.is_right for a in by_kind[k]) / len(by_kind[k]) for k in kinds},
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
