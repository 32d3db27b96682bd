"""Contract 9: half precision does not change the layout, `Exact` and the rotary tables."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.batch import Exact, PackedBatch, Pairs
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.positions import V2PE


def batch() -> PackedBatch:
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), Exact(torch.tensor([[513.5, -1000.25]])))
    packed = tiny.pack([("t", 300), ("i", 2), ("t", 4)], [("t", 5)], delta_log2=[8])
    return replace(packed, pairs=pairs, totals={"weight": 513.5})


def test_a_cast_batch_keeps_its_integers_and_what_is_exact() -> None:
    before = batch()
    after: Any = HalfPrecision("bf16-true").convert_input(before)
    assert after.images.pixels.dtype == torch.bfloat16
    for name in ("token_type", "cu_seqlens", "image_id", "grid", "delta_log2"):
        a, b = getattr(after.layout, name), getattr(before.layout, name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    assert torch.equal(after.pairs.reference_logps.tensor, torch.tensor([[513.5, -1000.25]]))
    assert after.pairs.reference_logps.tensor.dtype == torch.float32
    assert after.totals == {"weight": 513.5}
    ticks = V2PE(8).ticks(after.layout)
    assert torch.equal(ticks, V2PE(8).ticks(before.layout))
    cos, _ = V2PE(8).to(torch.bfloat16).rotary(after.layout)
    assert cos.dtype == torch.float32
    assert all(not torch.equal(x, y) for x, y in pairwise(cos[295:309]))


def test_break_of_contract_9_a_float_that_is_not_exact() -> None:
    cast: Any = HalfPrecision("bf16-true").convert_input({"position": torch.tensor(513.5)})
    assert cast["position"] == 512


def test_exact_moves_and_is_never_cast() -> None:
    exact = Exact(torch.tensor([513.5]), torch.tensor([1.0]))
    first, second = exact.to("cpu")
    assert first.dtype == torch.float32
    assert second == 1
    with pytest.raises(TypeError):
        exact.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="holds 2 tensors"):
        _ = exact.tensor


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_training_runs_in_each_precision(precision, tmp_path) -> None:
    packs = [tiny.pack([("t", 4), ("i", 2), ("t", 9)], [("t", 6)], seed=n) for n in range(4)]
    task = make_task()
    run = Trainer(
        accelerator="cpu", max_epochs=1, precision=precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    run.fit(task, Lookahead(Sized(packs), 1, task.counts))
    assert {p.dtype for p in task.model.parameters()} == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    exact = make_task()
    exact.configure_model()
    expected = exact.objective(exact.model, packs[0], exact.counts(packs[0])).total
    loss = run.callback_metrics["train/loss"]
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert abs(float(loss) - float(expected)) < 1.0
