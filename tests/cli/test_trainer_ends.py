"""What is told of a run that is interrupted, and of one that is too short for its validation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from recipe_standins import SAVING, Data, Task

from mmcomponents.cli.trainer import run, warn_of_validation


@pytest.mark.parametrize("saves", [False, True])
def test_an_interrupted_training_says_where_it_was(recipe: str, monkeypatch, caplog, saves: bool) -> None:
    def interrupted(self: Task, *_: Any) -> None:
        self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = 7
        raise KeyboardInterrupt

    if saves:
        run("fit", ["--config", recipe, *SAVING], Task, Data)
    monkeypatch.setattr(Task, "training_step", interrupted)
    resume = ["--ckpt_path", "runs/x/last.ckpt", "--trainer.max_steps", "4"] if saves else []
    with pytest.raises(KeyboardInterrupt):
        run("fit", ["--config", recipe, *(SAVING if saves else ()), *resume], Task, Data)
    kept = (
        "the last checkpoint is runs/x/last.ckpt; go on with mmcomponents fit --config runs/x/recipe.yaml --ckpt_path"
        " runs/x/last.ckpt"
    )
    assert f"interrupted at step 7; {kept if saves else 'no checkpoint was written'}" in caplog.text


def test_an_interrupted_training_without_a_checkpoint_says_when_the_first_is_due(
    recipe: str, monkeypatch, caplog
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "training_step", interrupted)
    saving = [flag.replace("dirpath: runs/x", "dirpath: runs/x, every_n_train_steps: 50") for flag in SAVING]
    with pytest.raises(KeyboardInterrupt):
        run("fit", ["--config", recipe, *saving], Task, Data)
    due = "(the first is due at step 50: --trainer.callbacks.every_n_train_steps N)"
    assert f"interrupted at step 0; no checkpoint was written {due}" in caplog.text


@pytest.mark.parametrize(
    ("interval", "steps", "batches", "val", "is_told"),
    [
        (500, 150, 1, ["a.tar"], True),
        (500, 150, 4, ["a.tar"], False),
        (100, 150, 1, ["a.tar"], False),
        (0.5, 150, 1, ["a.tar"], False),
        (500, -1, 1, ["a.tar"], False),
        (500, 150, 1, None, False),
    ],
)
def test_validation_data_that_a_run_never_reads_are_told(
    caplog, interval: float, steps: int, batches: int, val: list[str] | None, is_told: bool
) -> None:
    trainer = SimpleNamespace(val_check_interval=interval, max_steps=steps, accumulate_grad_batches=batches)
    warn_of_validation(SimpleNamespace(trainer=trainer, config={"data.val": val}))
    assert ("data.val is not used" in caplog.text) is is_told
    if is_told:
        assert "the run has 150 steps, and validates every 500 batches (--trainer.val_check_interval)" in caplog.text


def test_a_terminated_training_exits_with_143(
    recipe: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def terminated(*_: object, **__: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(Trainer, "fit", terminated)
    with pytest.raises(SystemExit) as ended:
        run("fit", ["--config", recipe], Task, Data)
    assert ended.value.code == 143
    assert "interrupted at step 0; no checkpoint was written" in caplog.text
