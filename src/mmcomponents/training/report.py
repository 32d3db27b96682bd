"""What a test run leaves behind: scores by kind, every answer, and a picture."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from mmcomponents.data import PromptBatch
from mmcomponents.inference import exact_match
from mmcomponents.training.pictures import answer_sheet

_SECONDS = "train_seconds"


@dataclass
class Answered:
    """One question of the test data with the model's answer."""

    key: str
    kind: str
    question: str
    answer: str
    prediction: str

    @property
    def is_right(self) -> bool:
        """Whether the prediction is the answer."""
        return exact_match(self.answer, self.prediction)


class AnswerReport(Callback):
    """Writes `report.json`, `answers.jsonl`, `answers.png` and `example.png` into the run's folder after `test`.

    The report holds the share of exact answers for each kind of question, the share that the kind's most frequent
    answer alone would get, and the seconds that training took.

    Args:
        examples: Questions in the picture.
    """

    def __init__(self, examples: int = 12) -> None:
        self.examples = examples
        self.answered: list[Answered] = []
        self.pictures: list[tuple[bytes, Answered]] = []
        self._seconds = 0.0
        self._started: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far, which a resumed run adds to."""
        return {_SECONDS: self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the seconds of the run that is gone on with."""
        self._seconds = state_dict[_SECONDS]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._seconds, self._started = self._elapsed(), None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew."""
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
        """Keeps the answers of a batch."""
        fields = zip(batch.keys, batch.kinds, batch.questions, batch.answers, outputs["answers"], strict=True)
        for picture, row in zip(batch.pictures, fields, strict=True):
            answered = Answered(*row)
            self.answered.append(answered)
            shown = sum(a.kind == answered.kind for _, a in self.pictures)
            # One question of a scene and as many of each kind as will be needed, so that the picture shows them all.
            new = all(answered.key != a.key for _, a in self.pictures)
            if new and picture is not None and len(self.pictures) < self.examples and shown <= self.examples // 5:
                self.pictures.append((picture, answered))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        answered = _from_all_ranks(self.answered)
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
            # One scene by itself, to try `mmcomponents generate` on.
            (folder / "example.png").write_bytes(max(self.pictures, key=lambda pair: len(pair[1].answer))[0])

    def _elapsed(self) -> float:
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)


def scores(answered: list[Answered]) -> dict[str, Any]:
    """Exact match and majority baseline by kind, and how many questions there were."""
    by_kind: dict[str, list[Answered]] = defaultdict(list)
    for a in answered:
        by_kind[a.kind].append(a)
    kinds = sorted(by_kind)
    return {
        "exact_match": {k: sum(a.is_right for a in by_kind[k]) / len(by_kind[k]) for k in kinds},
        "baseline": {k: Counter(a.answer for a in by_kind[k]).most_common(1)[0][1] / len(by_kind[k]) for k in kinds},
        "questions": {k: len(by_kind[k]) for k in kinds},
    }


def _from_all_ranks(answered: list[Answered]) -> list[Answered]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return answered
    lists: list[list[Answered]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(lists, answered)
    return [a for rank in lists for a in rank]
