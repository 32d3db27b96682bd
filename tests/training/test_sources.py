"""Logged likelihood of each source, over the accumulation window and all ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger

import tiny
from contracts.pair import Sized, look_ahead, make_task
from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.objectives import NextToken
from mmcomponents.testing import Ranks

NAMES = ["charts", "", "letters"]


def pack(sources: list[int], targets: list[int], seed: int) -> PackedBatch:
    made = tiny.pack(*[[("t", 9)] for _ in sources], seed=seed, targets=targets)
    return replace(made, segment_source=torch.tensor(sources))


PACKS = [pack([0, 1], [5, 2], 0), pack([0, -1], [3, 4], 1), pack([1], [6], 2), pack([0, 2], [1, 0], 3)]


class Data(LightningDataModule):
    """Datamodule with packs and source names."""

    def __init__(self, packs: list[PackedBatch], names: list[str]) -> None:
        super().__init__()
        self.packs, self.source_names = packs, names

    def train_dataloader(self) -> Lookahead:
        return look_ahead(Sized(self.packs), self.trainer.accumulate_grad_batches, self.trainer, len(NAMES))


class Kept(CSVLogger):
    """Records logged metrics by step."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self.kept: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        found = {n: v for n, v in metrics.items() if n.startswith("train/nll")}
        self.kept.setdefault(int(step or 0), {}).update(found)


def fit(data: LightningDataModule, logger: Logger, **changes: Any) -> None:
    task = make_task(**changes.pop("task", {}))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **changes,
    )
    trainer.fit(task, data)


def expected(source: int, packs: list[PackedBatch]) -> float:
    """Computes the mean over the targets of a source with the initial weights."""
    task = make_task()
    task.configure_model()
    values = []
    for batch in packs:
        logits = tiny.logits(task.model, batch)
        nll = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        mine = batch.segment_source[batch.layout.segment_of_token()] == source
        values.append(nll[mine & (batch.labels >= 0)])
    return float(torch.cat(values).mean())


def test_a_window_of_packs_is_told_apart_by_source(tmp_path: Path) -> None:
    logger = Kept(str(tmp_path))
    fit(Data(PACKS, NAMES), logger, accumulate_grad_batches=4)
    found = logger.kept[0]
    assert set(found) == {"train/nll", "train/nll/charts", "train/nll/1"}  # letters had no target
    assert found["train/nll/charts"] == pytest.approx(expected(0, PACKS), rel=1e-5)
    assert found["train/nll/1"] == pytest.approx(expected(1, PACKS), rel=1e-5)


def test_a_step_without_a_source_does_not_repeat_its_last_value(tmp_path: Path) -> None:
    logger = Kept(str(tmp_path))
    fit(Data(PACKS, NAMES), logger)
    assert [sorted(step) for step in logger.kept.values()] == [
        ["train/nll", "train/nll/1", "train/nll/charts"],
        ["train/nll", "train/nll/charts"],
        ["train/nll", "train/nll/1"],
        ["train/nll", "train/nll/charts"],
    ]


def test_without_names_sources_have_numbers(tmp_path: Path) -> None:
    logger = Kept(str(tmp_path))
    fit(Data(PACKS, []), logger, accumulate_grad_batches=4, task={"objective": lambda: NextToken(sources=2)})
    assert set(logger.kept[0]) == {"train/nll", "train/nll/0", "train/nll/1"}
    silent = Kept(str(tmp_path))
    fit(Data(PACKS, []), silent, accumulate_grad_batches=4)
    assert set(silent.kept[0]) == {"train/nll"}


def as_rank(rank: int, strategy: str, folder: str) -> dict[int, dict[str, float]]:
    """The ranks have different sources."""
    mine = [PACKS[:2], PACKS[2:]][rank]
    logger = Kept(folder)
    fit(Data(mine, NAMES), logger, accumulate_grad_batches=2, strategy=strategy, devices=2)
    return logger.kept


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_equal_one(two_ranks: Ranks, tmp_path: Path, strategy: str) -> None:
    logger = Kept(str(tmp_path))
    fit(Data(PACKS, NAMES), logger, accumulate_grad_batches=4)
    first, second = two_ranks.run(as_rank, strategy, str(tmp_path))
    assert first[0] == pytest.approx(logger.kept[0], rel=1e-5)
    assert second[0] == first[0]
