"""Norms of gradients by slot, sharded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from contracts.pair import make_task, micro_batches, train
from mmcomponents.testing import Ranks
from mmcomponents.training.gradients.gradient_norms import GradientNorms, local_norms, slot_gradients


class Logged(Callback):
    """Records what is logged, and the norms computed from the complete gradients."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.expected: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        found = {}
        for slot, part in pl_module.model.parts().items():  # type: ignore[union-attr]
            grads = [p.grad for p in part.parameters() if p.grad is not None]
            whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
            if whole:
                found[slot] = float(torch.cat([g.flatten() for g in whole]).norm())
        self.expected.append(found)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        names = {n: float(v) for n, v in trainer.logged_metrics.items() if n.startswith("grad_norm")}
        self.logged.append(names)


def steps(rank: int, strategy: str, folder: str, devices: int) -> tuple[list[Any], list[Any]]:
    packs = [ranked[rank] for batches in micro_batches(2, 2, 1) for ranked in batches]
    seen = Logged()
    options: dict[str, Any] = {"strategy": strategy, "devices": devices} if devices > 1 else {}
    logger = CSVLogger(folder)
    train(packs, 1, callbacks=[GradientNorms(), seen], logger=logger, log_every_n_steps=1, **options)
    return seen.logged, seen.expected


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_norms_are_those_of_the_complete_gradients(two_ranks: Ranks, tmp_path: Path, strategy: str) -> None:
    for logged, expected in two_ranks.run(steps, strategy, str(tmp_path), 2):
        for found, norms in zip(logged, expected, strict=True):
            total = sum(value**2 for value in norms.values()) ** 0.5
            assert found.pop("grad_norm") == pytest.approx(total, rel=1e-5)
            assert found == pytest.approx({f"grad_norm/{slot}": value for slot, value in norms.items()}, rel=1e-5)
            assert len(found) > 4


def test_nothing_is_computed_between_intervals(tmp_path: Path) -> None:
    packs = [ranked[0] for batches in micro_batches(3, 1, 1) for ranked in batches]
    seen = Logged()
    train(packs, 1, callbacks=[GradientNorms(), seen], logger=CSVLogger(tmp_path), log_every_n_steps=2)
    assert [bool(names) for names in seen.logged] == [False, True, True]  # Lightning repeats the last values
    assert seen.logged[1] == seen.logged[2]


def test_gradients_without_names_are_one_group() -> None:
    task = make_task()
    task.configure_model()
    optimizer = torch.optim.SGD(task.parameters(), lr=1.0)
    assert slot_gradients(optimizer) == local_norms(optimizer) == {}
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.grad = torch.ones_like(parameter)
    assert [*slot_gradients(optimizer)] == ["parameters"]
