"""Sources of reference log-probabilities in the training loop of the task."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from peft import LoraConfig
from torch.optim import SGD

import tiny
from checkpoints_models import hf_model
from contracts.pair import Sized, make_task
from mmcomponents.batch import Exact, PackedBatch
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.component import WiringError
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.objectives import MPO, AdaptersOff, FrozenReference, StoredReference, answer_logps
from mmcomponents.positions import V2PE
from mmcomponents.training import FinalCheckpoint, MultimodalTask, SlotOptions
from pair_packs import Other, join, no_pair, pair

PROMPT = [("t", 3), ("i", 2), ("t", 4)]
PACKS = [
    join(pair(PROMPT, 5, 3, seed=1), pair([("t", 6)], 2, 7, seed=2)),
    no_pair(seed=3),
    pair([("i", 1), ("t", 3)], 4, 4, seed=4),
    pair([("t", 5)], 3, 6, seed=5),
]
LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
FROZEN = {name: SlotOptions(trainable=False) for name in ("vision", "projector", "embedder", "heads")}


class Seen(Callback):
    """Records the logged values of each step and delta after it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        found = {k.removeprefix("train/"): float(v) for k, v in trainer.callback_metrics.items()}
        if not trainer.fit_loop._should_accumulate():
            self.steps.append(found | {"state": float(pl_module.objective.get_extra_state()[0])})


def fit(
    task: MultimodalTask,
    packs: list[PackedBatch],
    folder: Path,
    window: int = 2,
    ckpt: Any = None,
    done: int = 0,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> tuple[list[dict[str, float]], Trainer]:
    """Trains on the packs after the first `done` packs of the epoch."""
    seen = Seen()
    run = Trainer(
        accelerator="cpu", accumulate_grad_batches=window, logger=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[seen, *callbacks], default_root_dir=folder,
        **({"max_epochs": 1, "enable_checkpointing": False} | settings),
    )  # fmt: skip
    run.ckpt_path = ckpt  # as an argument of `fit` it is set only after the model is built
    ahead = Lookahead(Sized(packs[done:]), window, task.counts, place=lambda: (done, len(packs)))
    run.fit(task, ahead)
    return seen.steps, run


def mpo(reference: type[Any], **changes: Any) -> MultimodalTask:
    arguments = {"objective": partial(MPO, reference=reference), "optimizer": partial(SGD, lr=0.05)}
    return make_task(**(arguments | changes))


def stored(packs: list[PackedBatch], task: MultimodalTask) -> list[PackedBatch]:
    """Returns the packs with the log-probabilities of the untrained model, as `mmcomponents predict` stores them."""
    task.configure_model()
    task.eval()
    out = []
    for batch in packs:
        with torch.no_grad():
            logps = Exact(answer_logps(task.model, batch).float())
        out.append(batch if batch.pairs is None else replace(batch, pairs=replace(batch.pairs, reference_logps=logps)))
    return out


def assert_same_steps(one: list[dict[str, float]], two: list[dict[str, float]]) -> None:
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        a["accuracy"] = b["accuracy"] if a["margin"] == pytest.approx(0.0, abs=1e-6) else a["accuracy"]  # of ties
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)


def test_a_frozen_copy_equals_stored_values(tmp_path) -> None:
    live, run = fit(mpo(FrozenReference), PACKS * 2, tmp_path)
    beforehand, _ = fit(mpo(StoredReference), stored(PACKS, make_task()) * 2, tmp_path)
    assert_same_steps(live, beforehand)
    names = {"loss", "dpo", "bco", "nll", "delta", "chosen_reward", "rejected_reward", "margin", "accuracy", "state"}
    assert set(live[0]) == names
    assert live[0]["loss"] - live[0]["nll"] == pytest.approx(1.2 * 0.693147, abs=1e-4)
    assert live[0]["delta"] == pytest.approx(0.0, abs=1e-5)
    assert live[-1]["delta"] == pytest.approx(live[-1]["state"], abs=1e-6)
    assert abs(live[-1]["delta"]) > 1e-4
    assert run.global_step == 4


def test_the_copy_is_in_no_state_and_in_evaluation_mode(tmp_path) -> None:
    task = mpo(FrozenReference, vision=partial(tiny.vision, drop_path=0.5))
    fit(task, PACKS, tmp_path)
    copy = task.objective.reference._copy._model
    assert copy is not task.model
    task.train()
    assert not any(module.training for module in copy.modules())
    assert not any(p.requires_grad for p in copy.parameters())
    own = {id(p) for p in task.parameters()}
    assert not any(id(p) in own for p in copy.parameters())
    assert [name for name in task.state_dict() if not name.startswith("model.")] == ["objective._extra_state"]
    start = make_task()
    start.configure_model()
    for a, b, trained in zip(copy.parameters(), start.model.parameters(), task.model.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, trained)


def test_the_copy_has_the_type_of_the_policy(tmp_path) -> None:
    task = mpo(FrozenReference)
    steps, _ = fit(task, PACKS, tmp_path, precision="bf16-true")
    assert {p.dtype for p in task.objective.reference._copy._model.parameters()} == {torch.bfloat16}
    assert steps[0]["dpo"] == pytest.approx(0.6931, abs=1e-4)
    built = make_task()
    built.configure_model()
    late, half = FrozenReference(), tiny.model().to(torch.bfloat16)
    late.prepare(half, lambda: built.model)
    late.logps(half, replace(PACKS[3]), "lm")
    assert {p.dtype for p in built.model.parameters()} == {torch.bfloat16}


def test_adapters_off_is_the_start(tmp_path) -> None:
    slots = FROZEN | {"backbone": SlotOptions(adapter=LORA)}
    task = mpo(AdaptersOff, slots=slots)
    fit(task, PACKS * 4, tmp_path)
    assert all(p.requires_grad == ("lora_" in n) for n, p in task.model.named_parameters())
    modes = [module.training for module in task.model.modules()]
    expected = stored(PACKS, make_task())
    moved = 0.0
    for batch in expected:
        off = task.objective.reference.logps(task.model, batch, "lm")
        assert not off.requires_grad
        if batch.pairs is not None:
            torch.testing.assert_close(off, batch.pairs.reference_logps.tensor.double(), rtol=1e-5, atol=1e-5)
            moved += (answer_logps(task.model, batch) - off).abs().sum().item()
    assert moved > 1e-3, "adapters are on again, and trained"
    assert [module.training for module in task.model.modules()] == modes


def test_adapters_off_needs_adapters_and_nothing_else_trained(tmp_path) -> None:
    with pytest.raises(WiringError, match="the model has none"):
        fit(mpo(AdaptersOff), PACKS, tmp_path)
    slots = {"backbone": SlotOptions(adapter=LORA), "vision": SlotOptions(trainable=False)}
    with pytest.raises(WiringError, match=r"other weights are trained too \(such as projector\."):
        fit(mpo(AdaptersOff, slots=slots), PACKS, tmp_path)


class Stop(Callback):
    """Ends a run inside a step, as a time limit does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        trainer.should_stop |= trainer.fit_loop.epoch_loop.batch_progress.current.ready == self.after


def test_a_run_that_stops_inside_a_step_goes_on_with_the_delta_of_that_step(tmp_path, caplog) -> None:
    # at a learning rate of zero the weights are constant, and so is delta
    packs, make = PACKS * 3, partial(mpo, partial(Other, 5), optimizer=partial(SGD, lr=0.0))
    whole, _ = fit(make(), packs, tmp_path, 4)
    caplog.clear()
    final = FinalCheckpoint(str(tmp_path), 100)
    first, run = fit(make(), packs, tmp_path, 4, callbacks=[Stop(6), final], enable_checkpointing=True)
    assert (run.global_step, len(first)) == (1, 1)
    resumed = make()
    rest, run = fit(resumed, packs, tmp_path, 4, tmp_path / "last.ckpt", done=6, max_epochs=2)
    assert (run.global_step, len(rest)) == (3, 2)
    assert [step["state"] for step in first + rest] == pytest.approx([step["state"] for step in whole], rel=1e-6)
    assert resumed.objective.get_extra_state().tolist()[1:] == [12.0, 0.0]
    assert caplog.text.count("before any training") == 1


def test_averaging_shares_the_reference_and_leaves_delta_alone(tmp_path) -> None:
    task, average = mpo(FrozenReference), EMAWeightAveraging(decay=0.5)
    callbacks = [FinalCheckpoint(str(tmp_path), 100), average]
    steps, _ = fit(task, PACKS * 2, tmp_path, callbacks=callbacks, enable_checkpointing=True)
    assert average._average_model.module.objective.reference is task.objective.reference
    expected = task.objective.get_extra_state()
    assert float(expected[0]) == pytest.approx(steps[-1]["state"])
    assert abs(steps[-1]["state"]) > 1e-4
    for callbacks in ([EMAWeightAveraging(decay=0.5)], []):  # a run may resume without averaging
        again = mpo(FrozenReference)
        fit(again, PACKS * 2, tmp_path, ckpt=tmp_path / "last.ckpt", callbacks=callbacks)
        assert torch.equal(again.objective.get_extra_state(), expected)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_begin_with_a_part_of_the_weights_are_refused(start, tmp_path) -> None:
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    task = mpo(AdaptersOff, slots=FROZEN | {"backbone": SlotOptions(adapter=adapter)})
    with pytest.raises(WiringError, match=r"changed the weights of 4 layers below them, as PiSSA.*FrozenReference"):
        fit(task, PACKS, tmp_path)
    # reason: without the adapters it is another model
    begin = make_task()
    begin.configure_model()
    off, on = (AdaptersOff().logps(task.model, PACKS[0], "lm"), answer_logps(task.model.eval(), PACKS[0]))
    torch.testing.assert_close(on, answer_logps(begin.model.eval(), PACKS[0]), rtol=1e-4, atol=1e-4)
    assert (off - on).abs().max() > 1e-3


@pytest.mark.parametrize("start", [True, "gaussian", False])
def test_adapters_that_leave_the_weights_alone_are_not_refused(start, tmp_path, caplog) -> None:
    """Adapters that change answers from the beginning are reported at the first step."""
    adapter = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    fit(mpo(AdaptersOff, slots=FROZEN | {"backbone": SlotOptions(adapter=adapter)}), PACKS, tmp_path)
    assert ("before any training the preference terms are" in caplog.text) == (start is False)


def test_a_copy_of_the_objective_shares_its_reference() -> None:
    objective = MPO(reference=FrozenReference)
    objective.prepare(tiny.model(), tiny.model)
    copied = copy.deepcopy(objective)
    assert copied is not objective
    assert copied.reference is objective.reference


def test_a_run_goes_on_with_the_same_delta_and_the_starting_weights(tmp_path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path / "start")
    make = partial(mpo, FrozenReference, weights=str(tmp_path / "start"), position=partial(V2PE, base=10_000.0))
    packs = [*PACKS, *PACKS[2:], *PACKS[:2]]
    whole, _ = fit(make(), packs, tmp_path)
    _, run = fit(make(), packs[:4], tmp_path)
    run.save_checkpoint(tmp_path / "half.ckpt")
    resumed = make()
    rest, _ = fit(resumed, packs[4:], tmp_path, ckpt=tmp_path / "half.ckpt", max_epochs=2)
    assert_same_steps(whole[2:], rest)
    # negative tests: delta reset to zero; trained weights as the reference
    state = torch.load(tmp_path / "half.ckpt", weights_only=False)
    state["state_dict"]["objective._extra_state"].zero_()
    state["objective"]["_extra_state"].zero_()
    torch.save(state, tmp_path / "forgot.ckpt")
    forgot, _ = fit(make(), packs[4:], tmp_path, ckpt=tmp_path / "forgot.ckpt", max_epochs=2)
    assert abs(forgot[0]["delta"] - rest[0]["delta"]) > 1e-3
    assert abs(rest[0]["margin"]) + abs(rest[0]["chosen_reward"]) > 1e-3

    shutil.rmtree(tmp_path / "start")
    with pytest.raises(CheckpointError, match="model that the run started from, which a resumed run needs too"):
        fit(make(), packs[4:], tmp_path, ckpt=tmp_path / "half.ckpt", max_epochs=2)


def validate(task: MultimodalTask, packs: list[PackedBatch], folder: Path) -> dict[str, Any]:
    run = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    run.validate(task, torch.utils.data.DataLoader(packs, batch_size=None), verbose=False)
    return {name: float(value) for name, value in run.callback_metrics.items()}


def test_validation_has_a_reference_and_leaves_delta_alone(tmp_path) -> None:
    task = mpo(FrozenReference)
    found = validate(task, PACKS, tmp_path)
    assert task.objective.get_extra_state().tolist() == [0.0, 0.0, 0.0]
    assert found["val/loss"] - found["val/nll"] == pytest.approx(1.2 * 0.693147, abs=1e-4)


def test_validation_does_not_depend_on_the_packs(tmp_path) -> None:
    task, joined = mpo(partial(Other, 5)), join(*PACKS)
    found, whole = (validate(task, packs, tmp_path) for packs in (PACKS, [joined]))
    names = ("loss", "dpo", "bco", "nll", "chosen_reward", "rejected_reward", "margin", "accuracy")
    assert set(found) == {f"val/{name}" for name in names}
    assert found == pytest.approx(whole, rel=1e-5, abs=1e-6)
    task.eval()
    out = task.objective(task.model, joined, task.objective.counts(joined))
    assert whole == pytest.approx({f"val/{name}": float(out.parts[name]) for name in names}, rel=1e-5, abs=1e-6)
    # negative test: the mean of the losses of the packs
    counts = [task.objective.counts(batch) for batch in PACKS]
    losses = [float(task.objective(task.model, b, c).total) * c["pairs"] for b, c in zip(PACKS, counts, strict=True)]
    assert abs(sum(losses) / sum(c["pairs"] for c in counts) - found["val/loss"]) > 1e-4


def test_a_model_that_is_not_trained_gets_no_copy(tmp_path) -> None:
    task = mpo(FrozenReference)
    task.configure_model()
    assert task.objective.reference._copy._model is None
    with pytest.raises(WiringError, match="has no model yet"):
        task.objective(task.model, PACKS[0], task.counts(PACKS[0]))
