"""Progress of a run as lines of text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.cli.terminal.step_lines import StepLines
from mmcomponents.data.loading.lookahead import Lookahead


def test_losses_are_printed_at_each_interval_and_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packs = [tiny.pack([("t", 4), ("i", 1), ("t", 8)], seed=n) for n in range(10)]
    task = make_task()
    trainer = Trainer(
        accelerator="cpu", max_steps=5, log_every_n_steps=2, val_check_interval=8, accumulate_grad_batches=2,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StepLines()], default_root_dir=tmp_path,
    )  # fmt: skip
    val = torch.utils.data.DataLoader(packs[:1], batch_size=None)
    trainer.fit(task, Lookahead(Sized(packs), 2, task.counts), val)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    number = r"\d+(\.\d+)?(e-\d+)?"
    step = rf"step (\d)/5  train/loss {number}  lr 0\.05  s/step {number}"
    found = [re.fullmatch(step, line) for line in lines]
    assert [match and match[1] for match in found] == ["2", "4", None, "5"], lines
    assert re.fullmatch(rf"step 4/5  val/loss {number}", lines[2])
