"""Equal loss curves for equal seeds: repeated, stopped and resumed, on one process and on two.

A run that is stopped repeats the first steps, and the run that goes on repeats the others.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from mmcomponents.cli.main import main
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.testing import Ranks

STEPS, STOP = 5, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_handwriting(str(tmp_path_factory.mktemp("hw")), scenes=200, held_out=4, val_scenes=4))


def train(data: Path, run: Path, *flags: str) -> None:
    """Trains the quickstart's recipe through the command."""
    parts = [f"--data.{part}={data}/{part}-*.tar" for part in ("train", "val", "test")]
    small = ["--data.pack_tokens=512", "--trainer.accumulate_grad_batches=2", "--trainer.log_every_n_steps=1"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.val_check_interval=100"]
    logger = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={run}"]
    length = [f"--trainer.max_steps={STEPS}", f"--model.scheduler.total_steps={STEPS}"]
    where = [f"--data.tokenizer={data}/tokenizer", f"--trainer.default_root_dir={run}"]
    assert main(["fit", "--config", "quickstart", *parts, *small, *quiet, *logger, *length, *where, *flags]) == 0


def fit(data: Path, run: Path, *flags: str) -> list[float]:
    """Trains and returns the loss of each step."""
    train(data, run, *flags)
    version = max((run / "lightning_logs").iterdir(), key=lambda p: int(p.name.removeprefix("version_")))
    rows = csv.DictReader((version / "metrics.csv").open())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


def fit_as_rank(rank: int, data: Path, run: Path, flags: list[str]) -> list[float] | None:
    both = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]
    if rank == 0:  # only rank zero logs
        return fit(data, run, *both, *flags)
    train(data, run, *both, *flags)
    return None


def stop_at(step: int) -> list[str]:
    return [f"--trainer.max_steps={step}"]


def test_one_process(data: Path, tmp_path: Path) -> None:
    first = fit(data, tmp_path / "a")
    assert len(first) == STEPS
    stopped = fit(data, tmp_path / "c", *stop_at(STOP))
    assert stopped == first[:STOP]
    last = tmp_path / "c" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == STOP, "the last step is saved"
    assert fit(data, tmp_path / "c", f"--ckpt_path={last}") == first[STOP:]
    seeds = ["--seed_everything=1", "--data.seed=1", "--model.seed=1"]
    assert fit(data, tmp_path / "d", *stop_at(1), *seeds) != first[:1]


def test_two_processes(two_ranks: Ranks, data: Path, tmp_path: Path) -> None:
    first = two_ranks.run(fit_as_rank, data, tmp_path / "a", [])[0]
    assert len(first) == STEPS
    assert two_ranks.run(fit_as_rank, data, tmp_path / "c", stop_at(STOP))[0] == first[:STOP]
    last = tmp_path / "c" / "checkpoints" / "last.ckpt"
    assert last.is_dir()
    assert two_ranks.run(fit_as_rank, data, tmp_path / "c", [f"--ckpt_path={last}"])[0] == first[STOP:]
    # The same checkpoint is resumed on one process, and the wrong strategy raises an error.
    assert main(["fit", "--config", str(tmp_path / "a" / "recipe.yaml"), f"--ckpt_path={last}",
                 "--trainer.strategy=auto", "--trainer.devices=1"]) == 2  # fmt: skip
