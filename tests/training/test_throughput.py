"""Logged throughput, FLOPs and data wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler

import tiny
from contracts.pair import Sized, look_ahead, make_task
from mmcomponents.batch import PackedBatch
from mmcomponents.testing import Ranks, image_packs
from mmcomponents.training import FSDP2Strategy, SlotOptions, Throughput
from mmcomponents.training.throughput import Step, compute_dtype, summary
from no_language import seeing_task

PACKS = [tiny.pack([("t", 3), ("i", 2), ("t", 6)], seed=n, targets=[n + 1]) for n in range(4)]


class Slow(Sized):
    """Loads each pack with a delay."""

    def __iter__(self) -> Iterator[PackedBatch]:
        for pack in self.packs:
            time.sleep(0.1)
            yield pack


class Kept(Callback):
    """Records the logged metrics after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append({n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("perf/")})


def fit(packs: list[PackedBatch], slow: bool = False, task: Any = None, module: Any = None, **trainer: Any) -> Kept:
    kept, module = Kept(), module or make_task(**(task or {}))
    settings = {"log_every_n_steps": 1, "accumulate_grad_batches": 1} | trainer
    run = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Throughput(), kept],
        **settings,
    )
    loader = (Slow if slow else Sized)(packs)
    run.fit(module, look_ahead(loader, settings["accumulate_grad_batches"], run))
    return kept


def test_a_run_logs_speed_cost_and_waiting() -> None:
    kept = fit(PACKS, slow=True, log_every_n_steps=2)
    assert kept.steps[0] == {}
    assert kept.steps[2] == kept.steps[1]
    found = kept.steps[3]
    names = [f"perf/{n}" for n in ("tokens_per_second", "tiles_per_second", "targets_per_second", "data_wait")]
    slots = [f"perf/flops/{n}" for n in ("vision", "projector", "backbone", "heads.lm")]
    assert set(found) == {*names, *slots}  # the peak FLOPs of a CPU are unknown: no perf/mfu
    waited = found["perf/data_wait"] * 2 / found["perf/tiles_per_second"]  # of a step with two tiles, in seconds
    assert waited >= 0.1  # the loader sleeps so long, however busy the machine is
    assert found["perf/data_wait"] < 1
    assert found["perf/tokens_per_second"] == pytest.approx(found["perf/tiles_per_second"] * 17 / 2)
    assert found["perf/tiles_per_second"] < 2 / 0.1
    module = make_task()
    module.configure_model()
    assert found["perf/flops/backbone"] == 3 * module.model.backbone.flops(PACKS[0])
    assert found["perf/flops/heads.lm"] == 3 * 2 * 3.5 * tiny.WIDTH * tiny.VOCAB  # 3 and 4 targets


def test_a_step_has_the_work_of_its_window_and_frozen_slots_cost_less() -> None:
    frozen = {"slots": {"vision": SlotOptions(False)}}
    step = fit(PACKS, accumulate_grad_batches=4, task=frozen).steps[-1]
    one = fit(PACKS[:1]).steps[-1]
    assert step["perf/flops/vision"] == pytest.approx(one["perf/flops/vision"] * 4 / 3)
    assert step["perf/flops/backbone"] == pytest.approx(one["perf/flops/backbone"] * 4)


def test_a_profiler_of_the_trainer_is_left_alone() -> None:
    found = fit(PACKS, profiler=SimpleProfiler(filename=None)).steps[-1]
    assert "perf/data_wait" not in found
    assert found["perf/tokens_per_second"] > 0


def test_means_are_over_the_window() -> None:
    work = {"tokens": 100.0, "tiles": 4.0, "flops/backbone": 1e12}
    steps = [Step(1.0, 0.25, work), Step(3.0, 0.75, work)]
    values = summary(steps, {"backbone": 2}, peak=4e12)
    assert values == {
        "tokens_per_second": 50.0,
        "tiles_per_second": 2.0,
        "flops/backbone": 2e12,
        "mfu": 0.25,
        "data_wait": 0.25,
    }
    boxes = {"targets": 0.0, "tiles": 4.0}
    values = summary([Step(1.0, 0.0, boxes, {"boxes": 6.0}), Step(3.0, 0.0, boxes, {"boxes": 2.0})], {}, peak=None)
    assert values == {"boxes_per_second": 2.0, "tiles_per_second": 2.0, "data_wait": 0.0}
    assert "boxes_per_second" not in summary([Step(1.0, 0.0, {"targets": 2.0}, {"boxes": 6.0})], {}, peak=None)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        Throughput(window=0)


@pytest.mark.parametrize(
    ("precision", "compute", "expected"),
    [
        ("32-true", None, torch.float32),
        ("bf16-mixed", None, torch.bfloat16),
        ("16-mixed", None, torch.float16),
        ("32-true", "bf16", torch.bfloat16),
    ],
)
def test_the_type_of_matrix_products(precision, compute, expected) -> None:
    strategy = FSDP2Strategy(compute_dtype=compute) if compute else None
    assert compute_dtype(SimpleNamespace(strategy=strategy, precision=precision)) is expected


def test_an_objective_without_words_logs_what_its_loss_is_divided_by() -> None:
    packs = image_packs(0, tile=tiny.TILE, tokens_per_tile=tiny.VISUAL_TOKENS)
    found = fit(packs[:2], module=seeing_task(), accumulate_grad_batches=2).steps[-1]
    assert found["perf/boxes_per_second"] == found["perf/tiles_per_second"] > 0
    assert found["perf/flops/vision"] > 0
    assert "perf/targets_per_second" not in found


def test_a_sum_of_weights_is_no_speed() -> None:
    found = fit([tiny.pack([("t", 5)], targets=[0])]).steps[-1]
    assert "perf/targets_per_second" not in found
    assert "perf/weight_per_second" not in found


def as_rank(rank: int) -> dict[str, float]:
    mine = [PACKS[rank], PACKS[2 + rank]]
    return fit(mine, strategy="fsdp2", devices=2).steps[-1]


def test_two_ranks_count_the_work_of_both(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(as_rank)
    assert first["perf/flops/heads.lm"] == second["perf/flops/heads.lm"] == 3 * 2 * (3 + 4) * tiny.WIDTH * tiny.VOCAB
