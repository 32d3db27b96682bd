"""A benchmark answered during training."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import tiny
from contracts.pair import make_task
from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.generation import Answer, Context, Sampler
from mmcomponents.objectives import NextToken
from mmcomponents.testing import Ranks
from mmcomponents.training import BenchmarkScore

QUESTIONS = [{"question": f"What is {n}?", "answer": "Yes" if n % 3 else "no", "index": n} for n in range(7)]


class Data(LightningDataModule):
    """Packs to train on, and a renderer of prompts."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = train_tokenizer(["What is 1?"], 280)
        self.renderer = SampleRenderer(self.tokenizer, 4, Tiling(tile_size=16))

    def train_dataloader(self) -> torch.utils.data.DataLoader[PackedBatch]:
        batch = tiny.pack([("i", 1), ("t", 6)])
        batch.totals = NextToken().counts(batch)
        return torch.utils.data.DataLoader([batch] * 8, batch_size=None)

    def val_dataloader(self) -> torch.utils.data.DataLoader[PackedBatch]:
        return torch.utils.data.DataLoader([tiny.pack([("i", 1), ("t", 6)])] * 2, batch_size=None)


class SaysYes(Sampler):
    """Answers every question with "yes"."""

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        assert not model.training
        return [Answer("yes") for _ in range(prompts.num_segments)]


def quiz(folder: Path, questions: list[dict[str, Any]] = QUESTIONS) -> str:
    path = folder / "quiz.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in questions))
    return str(path)


def fit(folder: Path, callbacks: list[Any], sampler: type[Sampler] = SaysYes, **trainer: Any) -> Trainer:
    run = Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **{"logger": False, "enable_checkpointing": False, **trainer},
    )
    run.fit(make_task(sampler=sampler), Data())
    return run


def test_every_few_steps_the_metric_is_logged_and_can_be_monitored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    best = ModelCheckpoint(tmp_path / "best", monitor="benchmark/quiz", mode="max", every_n_train_steps=2)
    stop = EarlyStopping("benchmark/quiz", patience=9, check_on_train_epoch_end=True)
    score = BenchmarkScore(quiz(tmp_path), every_n_steps=2, per_batch=3)
    with caplog.at_level(logging.INFO, "mmcomponents"):
        run = fit(tmp_path, [score, best, stop], logger=CSVLogger(tmp_path, "log"), enable_checkpointing=True,
                  log_every_n_steps=1)  # fmt: skip
    assert run.callback_metrics["benchmark/quiz"] == pytest.approx(4 / 7), "exact ignores case"
    assert best.best_model_score == pytest.approx(4 / 7)
    assert stop.best_score == pytest.approx(4 / 7)
    files = sorted(path.name for path in (tmp_path / "benchmarks/quiz").iterdir())
    assert files == [f"step={step}.jsonl" for step in (2, 4, 6, 8)]
    rows = [json.loads(line) for line in (tmp_path / "benchmarks/quiz/step=8.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == [one["answer"] for one in QUESTIONS]
    assert rows[1] == {
        "key": rows[1]["key"],
        "question": "What is 1?",
        "answer": "Yes",
        "response": "yes",
        "score": 1.0,
    }
    assert "benchmark quiz at step 2: exact match 0.5714 (7 questions" in caplog.text
    logged = (tmp_path / "log/version_0/metrics.csv").read_text()
    assert logged.count("0.5714") == 4, "once each"


def test_after_validation_with_another_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = [*QUESTIONS, {"question": "Which?", "answer": "yes", "image": "gone.png", "index": 9}]
    score = BenchmarkScore(quiz(tmp_path, questions), "exact_strict", name="strict", limit=8)
    run = fit(tmp_path, [score], val_check_interval=4)
    assert run.callback_metrics["benchmark/strict"] == 0
    assert "strict: 1 questions are skipped, first: " in caplog.text
    assert len((tmp_path / "benchmarks/strict/step=8.jsonl").read_text().splitlines()) == 7


def as_rank(rank: int, folder: str) -> float:
    score = BenchmarkScore(str(Path(folder) / "quiz.jsonl"), every_n_steps=4, per_batch=2)
    return float(fit(Path(folder), [score], strategy="fsdp2", devices=2).callback_metrics["benchmark/quiz"])


def test_sharded_ranks_share_the_questions(two_ranks: Ranks, tmp_path: Path) -> None:
    quiz(tmp_path)
    assert two_ranks.run(as_rank, str(tmp_path)) == [pytest.approx(4 / 7)] * 2
    rows = [json.loads(line) for line in (tmp_path / "benchmarks/quiz/step=4.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == [one["question"] for one in QUESTIONS], "in the order of the file"


class Values(Sampler):
    """Answers with values."""

    answers = "values"

    def forward(self, model: Any, prompts: PackedBatch, context: Context) -> list[Answer]:
        return [Answer(values=torch.zeros(1)) for _ in range(prompts.num_segments)]


def test_validate_alone_asks_nothing(tmp_path: Path) -> None:
    run = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[BenchmarkScore(quiz(tmp_path))]
    )
    run.validate(make_task(sampler=SaysYes), Data(), verbose=False)
    assert not (tmp_path / "benchmarks").exists()


def test_a_resumed_run_does_not_answer_again_at_its_first_step(tmp_path: Path) -> None:
    first = BenchmarkScore(quiz(tmp_path), every_n_steps=2)
    run = fit(tmp_path, [first], max_steps=2, accumulate_grad_batches=2)
    run.save_checkpoint(tmp_path / "two.ckpt", weights_only=False)
    for path in (tmp_path / "benchmarks/quiz").iterdir():
        path.unlink()
    again = Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, accumulate_grad_batches=2,
        callbacks=[BenchmarkScore(quiz(tmp_path), every_n_steps=2)],
    )  # fmt: skip
    again.fit(make_task(sampler=SaysYes), Data(), ckpt_path=tmp_path / "two.ckpt")
    names = {path.name for path in (tmp_path / "benchmarks/quiz").iterdir()}
    assert "step=4.jsonl" in names
    assert "step=2.jsonl" not in names


def test_what_cannot_work_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric must be one of exact, .*, got 'exct'"):
        BenchmarkScore("a.jsonl", "exct")
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        BenchmarkScore("a.jsonl", every_n_steps=0)
    with pytest.raises(DataError, match="question file not found"):
        fit(tmp_path, [BenchmarkScore(str(tmp_path / "none.jsonl"))])
    with pytest.raises(MisconfigurationException, match="the run has no validation; set every_n_steps"):
        fit(tmp_path, [BenchmarkScore(quiz(tmp_path))], limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match="two callbacks BenchmarkScore are called quiz"):
        fit(tmp_path, [BenchmarkScore(quiz(tmp_path)), BenchmarkScore(quiz(tmp_path), "exact_strict")])
    with pytest.raises(MisconfigurationException, match="is the name of a folder below benchmarks/"):
        fit(tmp_path, [BenchmarkScore(quiz(tmp_path), name="../other")])
    with pytest.raises(MisconfigurationException, match="scores texts, and the sampler answers with values"):
        fit(tmp_path, [BenchmarkScore(quiz(tmp_path))], sampler=Values)
    with pytest.raises(MisconfigurationException, match="has no box"):
        fit(tmp_path, [BenchmarkScore(quiz(tmp_path), "grounding")])
