"""Contracts 7 and 10 for preference pairs: two ranks equal one for any split of the pairs, with the same delta."""

from __future__ import annotations

import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from peft import LoraConfig

import tiny
from contracts.pair import make_task, train
from mmcomponents.batch import PackedBatch
from mmcomponents.objectives import MPO, AdaptersOff, FrozenReference, StoredReference
from mmcomponents.objectives import mpo as module
from mmcomponents.testing import Ranks
from mmcomponents.training import SlotOptions
from mmcomponents.training import task as task_module
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy
from pair_packs import join, no_pair, pair, with_reference

STEPS, WINDOW = 4, 2
FROZEN = {name: SlotOptions(trainable=False) for name in ("vision", "projector", "embedder", "heads")}
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


class Delta(Callback):
    """Records delta and its number of pairs after each step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            logged = float(trainer.callback_metrics["train/delta"])
            self.seen.append([*pl_module.objective.get_extra_state()[:2].tolist(), logged])


def micro_batches(steps: int = STEPS, window: int = WINDOW) -> list[list[list[PackedBatch]]]:
    """Returns packs by step, micro-batch and rank: two pairs on rank 0, one or none and no image on rank 1."""
    out = []
    for step in range(steps):
        batches = []
        for micro in range(window):
            seed = 100 * step + 10 * micro
            one = pair([("t", 3), ("i", 1 + step % 2), ("t", 4)], 2 + step % 3, 5, seed=seed)
            two = pair([("t", 4)], 6, 3, seed=seed + 1)
            other = no_pair(seed=seed) if micro == 1 else pair([("t", 5 + step)], 3, 2, seed=seed + 2)
            batches.append([with_reference(join(one, two), 3), with_reference(other, 3)])
        out.append(batches)
    return out


def step(
    packs: list[PackedBatch],
    window: int,
    reference: str,
    parts: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    delta = Delta()
    references = {"stored": StoredReference, "frozen": FrozenReference, "adapters": AdaptersOff}
    task: dict[str, Any] = {"objective": partial(MPO, reference=references[reference])} | (parts or {})
    if reference == "adapters":
        task["slots"] = FROZEN | {"backbone": SlotOptions(adapter=LORA)}
    found = train(packs, window, task, callbacks=[delta], **options)
    return found | {"delta": delta.seen}


def as_rank(rank: int, strategy: Any, reference: str, window: int, options: dict[str, Any]) -> dict[str, Any]:
    mine = [ranked[rank] for batches in micro_batches(window=window) for ranked in batches]
    return step(mine, window, reference, strategy=strategy, devices=2, **options)


def alone(reference: str, window: int = WINDOW, **options: Any) -> dict[str, Any]:
    packs = [pack for batches in micro_batches(window=window) for ranked in batches for pack in ranked]
    return step(packs, 2 * window, reference, **options)


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """The shared pair of ranks; `pair` is a function of this module."""
    shared: Ranks = request.getfixturevalue("two_ranks")
    return shared


def assert_alike(one: dict[str, Any], two: dict[str, Any]) -> None:
    for name in ("losses", "norms", "delta"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("strategy", "reference", "window"),
    [
        ("ddp", "stored", 2),
        ("fsdp2", "stored", 1),
        ("fsdp2", "frozen", 2),
        ("ddp", "frozen", 1),
        ("fsdp2", "adapters", 2),
    ],
)
def test_two_ranks_equal_one(ranks, strategy, reference, window) -> None:
    one = alone(reference, window)
    first, second = ranks.run(as_rank, strategy, reference, window, {})
    assert len(one["losses"]) == STEPS
    assert_alike(one, first)
    assert first["delta"] == second["delta"], "to the last digit"
    assert_alike(first, second)
    assert [pairs for _, pairs, _ in one["delta"]] == [(3 + 2 * (window - 1)) * (s + 1) for s in range(STEPS)]
    for state, _, logged in one["delta"]:
        assert logged == pytest.approx(state, abs=1e-6)
    if reference != "adapters":
        assert abs(one["delta"][-1][0]) > 1e-4


class ReferenceType(Callback):
    """Records the data types of the weights of the reference."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = pl_module.objective.reference._copy._model
        self.seen = {p.dtype for p in model.parameters()}


def in_half_precision(rank: int, keeps_fp32: bool) -> tuple[list[float], set[torch.dtype]]:
    kinds = ReferenceType()
    with pytest.MonkeyPatch.context() as patch:
        if keeps_fp32:
            patch.setattr(task_module, "cast_parameters", lambda model, dtype: None)
        mine = [ranked[rank] for batches in micro_batches(window=1) for ranked in batches]
        strategy = FSDP2Strategy(compute_dtype="bf16")
        task = {"objective": partial(MPO, reference=FrozenReference)}
        found = train(mine, 1, task, callbacks=[kinds], strategy=strategy, devices=2)
    return found["losses"], kinds.seen


def test_a_sharded_reference_is_kept_in_the_data_type_of_the_computation(ranks) -> None:
    """Its log-probabilities are those of weights in fp32, which are converted when they are gathered."""
    (losses, kinds), _ = ranks.run(in_half_precision, False)
    (expected, others), _ = ranks.run(in_half_precision, True)
    assert (kinds, others) == ({torch.bfloat16}, {torch.float32})
    assert losses == expected


def as_rank_with_its_own_delta(rank: int) -> dict[str, Any]:
    """Negative test: each rank uses the rewards of its own pairs only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_over_ranks", lambda value: value)
        return as_rank(rank, "ddp", "stored", WINDOW, {})


def test_break_of_contract_7_a_delta_for_each_rank(ranks) -> None:
    one = alone("stored")
    first, second = ranks.run(as_rank_with_its_own_delta)
    assert first["delta"] != second["delta"]
    with pytest.raises(AssertionError):
        assert_alike(one, first)


class Reports(logging.Handler):
    """Records the messages of the objective."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def reports(packs: list[PackedBatch], window: int, **options: Any) -> list[str]:
    """Returns the messages of a run with drop path whose stored references are of another model."""
    handler = Reports()
    module.logger.addHandler(handler)
    try:
        step(packs, window, "stored", {"vision": partial(tiny.vision, drop_path=0.5)}, **options)
    finally:
        module.logger.removeHandler(handler)
    return handler.texts


def reports_as_rank(rank: int, strategy: str) -> list[str]:
    mine = [ranked[rank] for batches in micro_batches() for ranked in batches]
    return reports(mine, WINDOW, strategy=strategy, devices=2)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_the_first_step_is_measured_without_noise_over_all_ranks(ranks, strategy) -> None:
    packs = [pack for batches in micro_batches() for ranked in batches for pack in ranked]
    one = reports(packs, 2 * WINDOW)
    assert len(one) == 1
    assert "before any training the preference terms are" in one[0]
    assert ranks.run(reports_as_rank, strategy) == [one, []]


def validate(packs: list[PackedBatch], **options: Any) -> dict[str, float]:
    run = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tempfile.gettempdir(), **options,
    )  # fmt: skip
    run.validate(make_task(objective=MPO), torch.utils.data.DataLoader(packs, batch_size=None), verbose=False)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def validate_as_rank(rank: int, strategy: str) -> dict[str, float]:
    return validate([ranked[rank] for batches in micro_batches() for ranked in batches], strategy=strategy, devices=2)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_validation_on_two_ranks_equals_one_pack(ranks, strategy) -> None:
    one = validate([join(*[pack for batches in micro_batches() for ranked in batches for pack in ranked])], devices=1)
    assert {"val/loss", "val/nll", "val/margin"} <= one.keys()
    for found in ranks.run(validate_as_rank, strategy):
        assert found == pytest.approx(one, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("whole_file", [False, True])
def test_delta_travels_with_a_sharded_checkpoint(ranks, tmp_path: Path, whole_file) -> None:
    path = str(tmp_path / "half.ckpt")
    saved, _ = ranks.run(save_as_rank, path, whole_file)
    first, second = ranks.run(resume_as_rank, path, whole_file)
    assert first["delta"] == second["delta"]
    whole = alone("frozen")
    torch.testing.assert_close(saved["delta"], whole["delta"][:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first["delta"], whole["delta"][2:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first["losses"], whole["losses"][2:], rtol=1e-5, atol=1e-5)


def save_as_rank(rank: int, path: str, whole_file: bool) -> dict[str, Any]:
    mine = [ranked[rank] for batches in micro_batches()[:2] for ranked in batches]
    strategy = FSDP2Strategy(save_distributed_checkpoint=not whole_file)
    return step(mine, WINDOW, "frozen", strategy=strategy, devices=2, save_to=path)


def resume_as_rank(rank: int, path: str, whole_file: bool) -> dict[str, Any]:
    mine = [ranked[rank] for batches in micro_batches()[2:] for ranked in batches]
    strategy = FSDP2Strategy(save_distributed_checkpoint=not whole_file)
    return step(mine, WINDOW, "frozen", strategy=strategy, devices=2, ckpt_path=path, max_epochs=2)
