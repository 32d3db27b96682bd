"""Settings of the recipe after a checkpoint is loaded."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from mmcomponents.training.schedule import WarmupCosine, described, group_settings, resume_schedule


def optimizer(lr: float, groups: int = 1) -> SGD:
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)], lr=lr, weight_decay=lr / 2)


@pytest.mark.parametrize("peak", [2.0, 4.0])
def test_the_rate_of_another_schedule_is_scaled_by_the_change_of_the_peak(peak: float) -> None:
    old, new = optimizer(2.0), optimizer(peak)
    trained, resumed = ExponentialLR(old, 0.5), ExponentialLR(new, 0.5)
    settings = group_settings(new)
    for _ in range(3):
        old.step()
        trained.step()
    new.load_state_dict(old.state_dict())
    resume_schedule(new, settings, resumed, trained.state_dict(), 3)
    (group,) = new.param_groups
    assert group["lr"] == peak / 8
    assert (group["initial_lr"], group["weight_decay"]) == (peak, peak / 2)
    new.step()
    resumed.step()
    assert group["lr"] == peak / 16


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        partial(CosineAnnealingLR, T_max=8),
        partial(StepLR, step_size=2),
        lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=2), ExponentialLR(o, 0.9)], [2]),
    ],
)
def test_another_schedule_has_the_rates_that_it_has_from_the_start(schedule: Any) -> None:
    """A finished cosine schedule would keep a rate of 0 in all schedules that compute a rate from the one before."""
    old, straight, new = optimizer(2.0), optimizer(3.0), optimizer(3.0)
    trained = CosineAnnealingLR(old, T_max=4)
    whole, resumed = (None if schedule is None else schedule(o) for o in (straight, new))
    settings = group_settings(new)
    for _ in range(4):
        old.step()
        trained.step()
    assert old.param_groups[0]["lr"] < 1e-9
    new.load_state_dict(old.state_dict())
    resume_schedule(new, settings, resumed, None, 4)
    for step in range(8):
        if step >= 4:
            assert new.param_groups[0]["lr"] == pytest.approx(straight.param_groups[0]["lr"])
            if resumed is not None:
                new.step()
                resumed.step()
        if whole is not None:
            straight.step()
            whole.step()


def test_settings_of_schedules_are_compared_without_peaks() -> None:
    texts = {described(CosineAnnealingLR(optimizer(lr), length)) for lr in (1.0, 2.0) for length in (3, 4)}
    assert len(texts) == 2
    assert described(ExponentialLR(optimizer(1.0), 0.5)) not in texts


def test_a_length_is_positive_or_the_trainers() -> None:
    for given, kept in ((1, 1), (None, None), (-1, None)):
        assert WarmupCosine(optimizer(1.0), total_steps=given).total_steps == kept
    for wrong in (0, -2):
        with pytest.raises(ValueError, match="total_steps must be at least 1"):
            WarmupCosine(optimizer(1.0), total_steps=wrong)


def test_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="the checkpoint has 2 parameter groups and the recipe 1: other slots"):
        resume_schedule(optimizer(1.0, groups=2), group_settings(optimizer(1.0)), None, None, 0)


@pytest.mark.parametrize("schedule", [partial(OneCycleLR, max_lr=2.0, total_steps=10), partial(StepLR, step_size=2)])
def test_a_resumed_schedule_has_all_settings_of_one_that_never_stopped(schedule: Any) -> None:
    """`OneCycleLR` changes the momentum too."""
    old, new = (torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.0) for _ in range(2))
    trained, resumed = schedule(old), schedule(new)
    settings = group_settings(new)
    for _ in range(5):
        old.step()
        trained.step()
    new.load_state_dict(old.state_dict())
    resume_schedule(new, settings, resumed, trained.state_dict(), 5)
    assert group_settings(new) == group_settings(old)


def test_a_plateau_keeps_what_it_has_seen() -> None:
    old, new = optimizer(2.0), optimizer(2.0)
    trained, resumed = (ReduceLROnPlateau(o, factor=0.5, patience=0) for o in (old, new))
    settings = group_settings(new)
    for loss in (1.0, 2.0, 3.0):
        trained.step(loss)
    new.load_state_dict(old.state_dict())
    resume_schedule(new, settings, resumed, trained.state_dict(), 3)
    assert (new.param_groups[0]["lr"], resumed.best) == (0.5, 1.0)
