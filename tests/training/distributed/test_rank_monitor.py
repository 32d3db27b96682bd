"""Ranks that end because another one has."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from mmcomponents.testing import Ranks
from mmcomponents.training import RankMonitor


class Ending(Callback):
    """Ends one rank in its second step, while the others are busy outside of any collective."""

    def __init__(self, how: str, of: int) -> None:
        self.how, self.of = how, of

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx != 1 or self.how == "none":
            return
        if self.how == "all raise" and trainer.global_rank != self.of:
            time.sleep(0.5)
        if self.how == "all raise" or (self.how == "raises" and trainer.global_rank == self.of):
            raise ValueError(f"no more data on rank {trainer.global_rank}")
        if trainer.global_rank == self.of:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)


def train(rank: int, folder: Path, how: str, of: int, world: int) -> str:
    logging.getLogger("mmcomponents").addHandler(logging.FileHandler(folder / "log"))
    trainer = Trainer(
        accelerator="cpu", devices=world, strategy="ddp", max_steps=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[RankMonitor(patience=60.0 if how == "all raise" else 1.0), Ending(how, of)],
    )  # fmt: skip
    for _ in range(2):  # the second time with connections of its own
        torch.manual_seed(rank)
        trainer.fit(BoringModel())
        trainer.fit_loop.epoch_loop.max_steps = 6
    return "done"


@pytest.mark.parametrize(("how", "of"), [("dies", 1), ("dies", 0), ("raises", 1), ("raises", 0)])
def test_a_rank_that_ends_ends_the_other(two_ranks: Ranks, tmp_path: Path, how: str, of: int) -> None:
    with pytest.raises(RuntimeError) as found:
        two_ranks.run(train, tmp_path, how, of, 2)
    assert f"rank {1 - of} ended with exit code 1" in str(found.value)
    assert (f"rank {of} ended with exit code -9" if how == "dies" else f"no more data on rank {of}") in str(found.value)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert f"rank {1 - of} ends: rank {of}" in line
    assert "this run cannot go on" in line
    assert ("has died" if how == "dies" else "has raised an error") in line


def test_an_error_of_all_ranks_is_their_own(two_ranks: Ranks, tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"rank 0: ValueError: no more data on rank 0.*; rank 1: ValueError: no more"
    ):
        two_ranks.run(train, tmp_path, "all raise", 0, 2)


def test_a_run_that_ends_as_it_should_is_left_alone(two_ranks: Ranks, tmp_path: Path) -> None:
    assert two_ranks.run(train, tmp_path, "none", 0, 2) == ["done", "done"]
    assert (tmp_path / "log").read_text() == ""


@pytest.mark.slow
def test_all_of_four_ranks_end(tmp_path: Path) -> None:
    with Ranks(4) as ranks, pytest.raises(RuntimeError) as found:
        ranks.run(train, tmp_path, "dies", 2, 4)
    assert str(found.value).count("ended with exit code 1") == 3
