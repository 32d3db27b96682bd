"""Lightning's weight averaging of the task: the average is validated, saved and exported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor

import tiny
from contracts.pair import Sized, make_task
from mmcomponents.cli.models.run_weights import load_weights, model_weights
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.objectives import MPO, NextToken, Objective
from mmcomponents.training import EMA, FinalCheckpoint, FSDP2Strategy, MultimodalTask, SlotOptions
from pair_packs import pair, with_reference

PACKS = [tiny.pack([("t", 4), ("i", 1), ("t", 8)], seed=n) for n in range(4)]
DECAY = 0.7
SLOTS = {"backbone": SlotOptions(adapter=peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))}


class Path_(Callback):
    """Records the weights after each step, and those that validation uses."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.steps.append(weights(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.validated = weights(pl_module)


def weights(task: LightningModule) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in task.model.named_parameters()}  # type: ignore[union-attr]


def run(
    folder: Path,
    packs: list[Any],
    epochs: int = 1,
    ckpt: Path | None = None,
    callback: Callback | None = None,
    objective: type[Objective] = NextToken,
) -> tuple[MultimodalTask, Path_]:
    seen, task = Path_(), make_task(slots=SLOTS, objective=objective)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, num_sanity_val_steps=0,
        callbacks=[FinalCheckpoint(str(folder), 3), seen, callback or EMAWeightAveraging(decay=DECAY)],
    )  # fmt: skip
    val = torch.utils.data.DataLoader(packs[:1], batch_size=None)
    trainer.fit(task, Lookahead(Sized(packs), 1, task.counts), val, ckpt_path=ckpt)
    return task, seen


def test_the_average_is_validated_kept_and_given_out(tmp_path: Path) -> None:
    task, seen = run(tmp_path, PACKS)
    average = dict(seen.steps[0])  # the average starts as the weights after the first step
    for step in seen.steps[1:]:
        average = {name: DECAY * value + (1 - DECAY) * step[name] for name, value in average.items()}
    for found in (weights(task), seen.validated):
        torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-6)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    current = {name.removeprefix("model."): value for name, value in saved["current_model_state"].items()}
    torch.testing.assert_close({n: current[n] for n in average}, seen.steps[-1], rtol=0, atol=0)
    exported = {name: value.load() for name, value in model_weights(tmp_path / "last.ckpt").items()}
    torch.testing.assert_close({n: exported[n] for n in average}, average, rtol=1e-5, atol=1e-6)
    answers = make_task(slots=SLOTS)  # loaded as by `generate` and `test`
    answers.configure_model()
    load_weights(answers, tmp_path / "last.ckpt")
    torch.testing.assert_close(weights(answers), weights(task), rtol=0, atol=0)
    moved = {n for n, value in average.items() if not torch.allclose(value, seen.steps[-1][n], atol=1e-6)}
    assert any(".lora_B." in n for n in moved)


@pytest.mark.parametrize("average", [lambda: EMAWeightAveraging(decay=DECAY), WeightAveraging])
def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, average: Any) -> None:
    whole, steps = run(tmp_path / "whole", PACKS, callback=average())
    half, seen = run(tmp_path / "half", PACKS[:2], callback=average())
    rest, later = run(tmp_path / "half", PACKS[2:], 2, tmp_path / "half" / "last.ckpt", average())
    for a, b in zip(steps.steps, seen.steps + later.steps, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(weights(rest), weights(whole), rtol=0, atol=0)
    assert not torch.equal(half.model.projector.fc1.weight, rest.model.projector.fc1.weight)  # type: ignore[union-attr]


def test_an_average_that_starts_later_is_validated_as_the_weights_until_then(tmp_path: Path) -> None:
    _, seen = run(tmp_path / "before", PACKS, callback=EMA(decay=DECAY, update_starting_at_step=100))
    torch.testing.assert_close(seen.validated, seen.steps[-1], rtol=0, atol=0)
    _, seen = run(tmp_path / "within", PACKS, callback=EMA(decay=DECAY, update_starting_at_step=2))
    average = seen.steps[1]
    for step in seen.steps[2:]:
        average = {name: DECAY * value + (1 - DECAY) * step[name] for name, value in average.items()}
    torch.testing.assert_close(seen.validated, average, rtol=1e-5, atol=1e-6)
    saved = torch.load(tmp_path / "before" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(saved["state_dict"], saved["current_model_state"], rtol=0, atol=0)
    by_epoch = {"update_every_n_steps": 0, "update_starting_at_epoch": 2}
    _, seen = run(tmp_path / "epochs", PACKS, callback=EMA(decay=DECAY, **by_epoch))
    torch.testing.assert_close(seen.validated, seen.steps[-1], rtol=0, atol=0)
    with pytest.raises(MisconfigurationException, match=r"until epoch 2: use mmcomponents\.training\.EMA"):
        run(tmp_path, PACKS, callback=EMAWeightAveraging(**by_epoch))
    with pytest.raises(MisconfigurationException, match=r"until step 2: use mmcomponents\.training\.EMA"):
        run(tmp_path, PACKS, callback=EMAWeightAveraging(update_starting_at_step=2))


def test_a_sharded_model_is_refused() -> None:
    strategy = FSDP2Strategy()
    strategy._lightning_module = SimpleNamespace(trainer=SimpleNamespace(callbacks=[EMAWeightAveraging()]))
    with pytest.raises(MisconfigurationException, match="EMAWeightAveraging copies the model, which fsdp2 shards"):
        strategy.shard(tiny.model(), 0)


def test_the_objectives_state_is_the_trained_one_and_not_that_of_the_averaged_copy(tmp_path: Path) -> None:
    """The average is a copy of the task, whose objective keeps its state from the start of the run."""
    pairs = [with_reference(pair([("t", 4), ("i", 1), ("t", 3)], 5, 4, seed=n)) for n in range(2)]
    trained, _ = run(tmp_path, pairs, objective=MPO)
    fresh = make_task(slots=SLOTS, objective=MPO)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    val = torch.utils.data.DataLoader(pairs, batch_size=None)
    trainer.validate(fresh, val, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    state = fresh.objective.get_extra_state()
    assert state[:2].ne(0).all()
    assert torch.equal(state, trained.objective.get_extra_state())
