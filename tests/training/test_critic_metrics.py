from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torchmetrics.functional.classification import multiclass_f1_score

import step_packs
import tiny
from contracts.pair import Sized, make_task
from mmcomponents.batch import Steps
from mmcomponents.heads import Verbalizer
from mmcomponents.objectives import ProcessReward
from mmcomponents.training import StepF1


def validate(task, packs, callback: StepF1) -> dict[str, float]:
    run = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    return run.validate(task, Sized(packs), verbose=False)[0]


def packs():
    made = [step_packs.with_steps(tiny.pack([("t", 9)], [("t", 7)], seed=n), [4, n], seed=n) for n in range(3)]
    made[1].steps = Steps.of()
    return made


@pytest.mark.parametrize("threshold", [0.5, 0.45])
def test_macro_f1_over_all_packs(threshold) -> None:
    head = partial(Verbalizer, token_ids=step_packs.WORDS)
    task, batches = make_task(objective=ProcessReward, heads={"lm": head}), packs()
    found = validate(task, batches, StepF1(threshold))
    scores = []
    for batch in batches:
        with torch.no_grad():
            task.objective(task.model, batch, task.objective.counts(batch))
        scores.append(task.objective.scores)
    truth = torch.cat([batch.steps.label for batch in batches])
    called = (torch.cat(scores) > threshold).long()
    expected = multiclass_f1_score(called, truth, num_classes=2, average="macro")
    assert found["val/step_f1"] == pytest.approx(expected.item())
    assert "val/loss" in found


def test_other_objectives_are_left_alone() -> None:
    assert "val/step_f1" not in validate(make_task(), [tiny.pack([("t", 9)])], StepF1())


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1, got 1"):
        StepF1(1)
