"""Contracts 1, 5 and 7 for packs with steps, which the packs of the other contract tests do not have."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import step_packs
import tiny
from contracts.pair import OwnCounts, micro_batches, train
from contracts.test_contracts import MIXED, TOLERANCE, assert_gradients_close, loss_and_gradients
from contracts.test_two_ranks import assert_alike
from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.collation import steps_of
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.heads import Verbalizer
from mmcomponents.objectives import ProcessReward

STEPS, WINDOW = 4, 2


def mixed() -> PackedBatch:
    return step_packs.with_steps(tiny.pack(*MIXED), [3, 0, 5], seed=1)


@pytest.mark.parametrize("tied", [False, True])
def test_packed_equals_separate(tied) -> None:
    """In double precision, as gradients of layer scale are large: fp32 is off by 4e-5 on some CPUs."""
    head = Verbalizer(tiny.WIDTH, tiny.VOCAB, step_packs.WORDS, tied=tied)
    model, batch = step_packs.critic(heads={"lm": head}).double(), mixed()
    one, many = (loss_and_gradients(model, ProcessReward(), p) for p in ([batch], step_packs.separate(batch)))
    torch.testing.assert_close(one[0], many[0], **TOLERANCE)
    assert_gradients_close(one[1], many[1])


def test_break_of_contract_1_a_mean_for_each_pack() -> None:
    model, batch, objective = step_packs.critic(), mixed(), ProcessReward()
    whole, _ = loss_and_gradients(model, objective, [batch])
    apart = [objective(model, b, objective.counts(b)).total for b in step_packs.separate(batch)]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(torch.stack(apart).mean(), whole, **TOLERANCE)


def critic_batches(steps: int) -> list[list[PackedBatch]]:
    """Returns one pack per rank by micro-batch: unequal numbers of steps, rank 1 without images, once without steps."""
    out = []
    for number, ranked in enumerate(ranked for step in micro_batches(steps, 2, WINDOW) for ranked in step):
        first, second = (step_packs.with_steps(b, [1 + number % 4, 2], seed=number) for b in ranked)
        if number % 3 == 1:
            second = replace(second, steps=steps_of(), labels=torch.full_like(second.labels, -100))
        out.append([first, second])
    return out


def task(tied: bool = False) -> dict[str, Any]:
    head = partial(Verbalizer, token_ids=step_packs.WORDS, tied=tied)
    return {"objective": ProcessReward, "heads": {"lm": head}}


def as_rank(rank: int, strategy: str, tied: bool, own_mean: bool) -> dict[str, Any]:
    mine = [ranked[rank] for ranked in critic_batches(STEPS)]
    counts = OwnCounts if own_mean else StepCounts
    return train(mine, WINDOW, task(tied), counts=counts, strategy=strategy, devices=2)


def alone(tied: bool = False) -> dict[str, Any]:
    packs = [pack for ranked in critic_batches(STEPS) for pack in ranked]
    return train(packs, 2 * WINDOW, task(tied))


@pytest.mark.parametrize(("strategy", "tied"), [("fsdp2", False), ("fsdp2", True), ("ddp", False)])
def test_two_ranks_equal_one(pair, strategy, tied) -> None:
    one = alone(tied)
    assert len(one["losses"]) == STEPS
    first, second = pair.run(as_rank, strategy, tied, False)
    assert_alike(one, first)
    assert_alike(first, second)


def test_break_of_contract_7_a_denominator_for_each_rank(pair) -> None:
    one = alone()
    wrong, _ = pair.run(as_rank, "ddp", False, True)
    with pytest.raises(AssertionError):
        assert_alike(one, wrong)


def test_ranks_have_other_numbers_of_steps() -> None:
    counts = [[int(b.steps.score_at.shape[0]) for b in ranked] for ranked in critic_batches(STEPS)]
    assert any(a != b for a, b in counts)
    assert any(b == 0 for _, b in counts)
    assert all(ranked[1].images is None for ranked in critic_batches(STEPS))
