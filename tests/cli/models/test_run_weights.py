"""Weights of a run's checkpoint are refused if they are damaged, not finite, of another model, or run code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mmcomponents.checkpoints.runs import saved_weights
from mmcomponents.cli.models.run_weights import load_weights, model_weights
from mmcomponents.cli.user_error import UserError


class Task(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(4, 3)
        self.objective = nn.BatchNorm1d(2)


def written(path: Path, **changes: Tensor) -> Path:
    torch.save({"state_dict": Task().state_dict() | changes, "hyper_parameters": {}}, path)
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    weight = torch.zeros(3, 4)
    weight[1, 2] = value
    path = written(tmp_path / "last.ckpt", **{"model.weight": weight})
    told = rf"{path}: model.weight has 1 (NaN|Inf) in 12 values"
    with pytest.raises(UserError, match=told):
        load_weights(Task(), path)
    with pytest.raises(UserError, match=told):
        model_weights(path)["weight"].load()
    task = Task()
    load_weights(task, path, allow_nonfinite=True)
    torch.testing.assert_close(task.model.weight.detach(), weight, equal_nan=True)


def test_state_beside_the_model_may_be_infinite(tmp_path: Path) -> None:
    path = written(tmp_path / "last.ckpt", **{"objective.running_var": torch.tensor([math.inf, 1.0])})
    load_weights(Task(), path)


def test_names_are_compared_before_a_value_is_read(tmp_path: Path, monkeypatch) -> None:
    path = written(tmp_path / "last.ckpt", **{"model.weight": torch.zeros(9, 9), "model.more": torch.zeros(1)})

    def fail(*_: Any) -> None:
        raise AssertionError("a value was read")

    monkeypatch.setattr(saved_weights, "check_finite", fail)
    told = r"1 unexpected \(model.more\); 1 of another shape \(model.weight\)"
    with pytest.raises(UserError, match=told):
        load_weights(Task(), path)


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "last.ckpt")
    data = bytearray(path.read_bytes())
    data[data.index(b"data/0") + 80] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        load_weights(Task(), path)


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class RunsCode:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "more": RunsCode()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="is not a file of weights") as caught:
        load_weights(Task(), tmp_path / "evil.ckpt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
