"""Means over packs of different sizes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from mmcomponents.batch import LossOutput
from mmcomponents.objectives import MPO, NextToken, Objective
from mmcomponents.training.validation_means import ValidationMeans


def task() -> Any:
    """Records logged values in `logged`."""
    logged: dict[str, float] = {}
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    return SimpleNamespace(
        device=torch.device("cpu"),
        trainer=SimpleNamespace(strategy=strategy),
        log=lambda name, value, **_: logged.update({name: float(value)}),
        logged=logged,
    )


def add(means: ValidationMeans, objective: Objective, parts: dict[str, float], counts: dict[str, float]) -> None:
    tensors = {name: torch.tensor(value) for name, value in parts.items()}
    means.add(objective, LossOutput(tensors["loss"], tensors), counts)


def test_each_part_is_a_mean_over_its_own_count() -> None:
    means, objective, shown = ValidationMeans(), MPO(dpo_weight=1.0, bco_weight=0.0, nll_weight=2.0), task()
    names = {"loss": 9.0, "bco": 0.0, "chosen_reward": 0.0, "rejected_reward": 0.0, "margin": 0.0, "accuracy": 0.0}
    add(means, objective, names | {"dpo": 1.0, "nll": 4.0}, {"pairs": 3.0, "chosen_targets": 10.0})
    add(means, objective, names | {"dpo": 5.0, "nll": 1.0}, {"pairs": 1.0, "chosen_targets": 20.0})
    means.write(shown, objective)
    assert shown.logged["val/dpo"] == 2.0
    assert shown.logged["val/nll"] == 2.0
    assert shown.logged["val/loss"] == 6.0
    assert set(shown.logged) == {"val/loss", *(f"val/{name}" for name in objective.validated)}


def test_a_loss_with_one_denominator_is_the_mean_over_it_and_is_forgotten_afterwards() -> None:
    means, objective, shown = ValidationMeans(), NextToken(), task()
    for _ in range(2):
        add(means, objective, {"loss": 1.0, "nll": 7.0}, {"weight": 1.0, "targets": 4.0})
        add(means, objective, {"loss": 2.0, "nll": 7.0}, {"weight": 3.0, "targets": 4.0})
        means.write(shown, objective)
        assert shown.logged == {"val/loss": pytest.approx(1.75)}
    add(means, objective, {"loss": 100.0}, {"weight": 1.0})
    means.clear()
    means.write(cast(Any, shown), objective)
    assert shown.logged["val/loss"] != shown.logged["val/loss"], "without packs the mean is NaN"
