"""Settings of the recipe after a checkpoint is loaded."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR

from mmcomponents.training.schedule import WarmupCosine, group_settings, restore_settings


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
    resumed.load_state_dict(trained.state_dict())
    restore_settings(new, settings, resumed)
    (group,) = new.param_groups
    assert group["lr"] == peak / 8
    assert (group["initial_lr"], group["weight_decay"]) == (peak, peak / 2)
    new.step()
    resumed.step()
    assert group["lr"] == peak / 16


def test_a_length_is_positive_or_the_trainers() -> None:
    for given, kept in ((1, 1), (None, None), (-1, None)):
        assert WarmupCosine(optimizer(1.0), total_steps=given).total_steps == kept
    for wrong in (0, -2):
        with pytest.raises(ValueError, match="total_steps must be at least 1"):
            WarmupCosine(optimizer(1.0), total_steps=wrong)


def test_other_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="the checkpoint has 2 parameter groups and the recipe 1: other slots"):
        restore_settings(optimizer(1.0, groups=2), group_settings(optimizer(1.0)), None)
