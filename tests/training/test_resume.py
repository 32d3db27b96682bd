"""Resuming: weights and moments come from the checkpoint, learning rates and lengths from the recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.training import MultimodalTask, SlotOptions, WarmupCosine

PACKS = [tiny.pack([("t", 4), ("i", 1), ("t", 8)], seed=n) for n in range(8)]


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        group = optimizer.param_groups[0]
        self.seen.append((group["lr"], group["weight_decay"]))


def run(
    tmp_path: Path,
    steps: int,
    lr: float,
    decay: float = 0.05,
    ckpt: str | None = None,
    total: int | None = None,
    schedule: Any = WarmupCosine,
) -> tuple[list[tuple[float, float]], Trainer, MultimodalTask]:
    task = make_task(
        optimizer=partial(AdamW, lr=lr, weight_decay=decay),
        scheduler=partial(WarmupCosine, total_steps=total, warmup_steps=0) if schedule is WarmupCosine else schedule,
    )
    rates = Rates()
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rates], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, Lookahead(Sized(PACKS), 1, task.counts), ckpt_path=ckpt)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return rates.seen, trainer, task


def test_a_resumed_run_has_the_recipes_rates_and_length(tmp_path) -> None:
    first, _, _ = run(tmp_path, steps=4, lr=0.01)
    assert [round(lr, 6) for lr, _ in first] == [0.01, 0.008536, 0.005, 0.001464]
    later, _, _ = run(tmp_path, steps=8, lr=0.1, decay=0.5, ckpt=str(tmp_path / "last.ckpt"))
    # Halfway through eight steps, with the new peak and weight decay.
    assert [round(lr, 6) for lr, _ in later] == [0.05, 0.030866, 0.014645, 0.003806]
    assert {decay for _, decay in later} == {0.5}


@pytest.mark.parametrize(
    ("schedule", "expected"), [(None, [0.1] * 2), (partial(StepLR, step_size=5, gamma=0.5), [0.1, 0.05])]
)
def test_a_finished_run_goes_on_with_another_schedule(tmp_path, caplog, schedule, expected) -> None:
    run(tmp_path, steps=4, lr=0.1)
    with caplog.at_level("WARNING"):
        found, _, _ = run(tmp_path, steps=6, lr=0.1, ckpt=str(tmp_path / "last.ckpt"), schedule=schedule)
    assert [round(lr, 6) for lr, _ in found] == expected
    assert "trained with another schedule" in caplog.text


def test_a_schedule_that_cannot_go_on_is_an_error(tmp_path) -> None:
    run(tmp_path, steps=4, lr=0.1)
    short = partial(OneCycleLR, max_lr=0.1, total_steps=2)
    with pytest.raises(MisconfigurationException, match="OneCycleLR cannot go on from step 4: Tried to step 3 times"):
        run(tmp_path, steps=6, lr=0.1, ckpt=str(tmp_path / "last.ckpt"), schedule=short)


def test_a_validated_checkpoint_does_not_change_the_schedule_of_a_new_run(tmp_path) -> None:
    _, trainer, task = run(tmp_path, steps=4, lr=0.1, total=8)
    val = torch.utils.data.DataLoader(PACKS[:1], batch_size=None)
    trainer.validate(task, val, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    rates = Rates()
    again = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rates], default_root_dir=tmp_path,
    )  # fmt: skip
    again.fit(task, Lookahead(Sized(PACKS), 1, task.counts))
    assert rates.seen[0][0] == 0.1


def test_a_schedule_that_is_shorter_than_the_run_is_reported(tmp_path, caplog) -> None:
    with caplog.at_level("WARNING"):
        run(tmp_path, steps=4, lr=0.1, total=3)
    assert "the schedule ends at step 3: the learning rate is 0 from there to step 4" in caplog.text
    with pytest.raises(MisconfigurationException, match=r"ends at step 3 \(total_steps\) and .* from step 4"):
        run(tmp_path, steps=8, lr=0.1, total=3, ckpt=str(tmp_path / "last.ckpt"))


def test_a_run_that_goes_on_unchanged_equals_one_that_never_stopped(tmp_path) -> None:
    whole, _, straight = run(tmp_path / "a", steps=8, lr=0.01, total=8)
    run(tmp_path / "b", steps=4, lr=0.01, total=8)
    # The loader restarts here, so the second half has the same packs; both halves are compared by learning rates.
    rest, _, _ = run(tmp_path / "b", steps=8, lr=0.01, total=8, ckpt=str(tmp_path / "b" / "last.ckpt"))
    assert rest == whole[4:]
    assert straight.model is not None


def test_a_schedule_without_length_takes_the_trainers(tmp_path) -> None:
    seen, trainer, _ = run(tmp_path, steps=5, lr=0.01)
    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 5
    assert seen[-1][0] < seen[0][0] / 5
    with pytest.raises(ValueError, match="the schedule has no length"):
        WarmupCosine(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)).fill_in(float("inf"))


def test_frozen_slots_are_in_evaluation_mode_in_a_step(tmp_path) -> None:
    modes = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            modes.append((pl_module.model.vision.training, pl_module.model.backbone.training))

    task = make_task(slots={"vision": SlotOptions(trainable=False)})
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Look()], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, Lookahead(Sized(PACKS), 1, task.counts))
    assert modes == [(False, True)] * 2
