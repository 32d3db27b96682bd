"""Objectives of policies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mmcomponents.batch import Exact
from mmcomponents.component import WiringError
from mmcomponents.extras import Actions
from mmcomponents.heads import ActionHead, CosineNoise, PooledDenoisingHead, TokenDenoisingHead
from mmcomponents.objectives import ActionRegression, Diffusion
from policy import observations, packed, policy

HEADS = {
    "in context": {},
    "token": {"head": partial(TokenDenoisingHead, num_blocks=1)},
    "pooled": {"head": partial(PooledDenoisingHead, num_blocks=1, horizon=4)},
}


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_error_of_the_noise_at_actions_with_a_target(name: str, tmp_path: Path) -> None:
    model, batch, objective = policy(tmp_path, **HEADS[name]), packed(), Diffusion()
    totals = objective.counts(batch)
    assert totals["actions"] == 4 + 3 + 2
    loss = float(objective(model, batch, totals).total)
    assert loss > 0.1
    # a target that is masked changes nothing, another one does
    values, mask = batch.extras["actions"].values.tensor, batch.extras["actions"].mask
    for place in (int((~mask).nonzero()[0]), 0):
        other = values.clone()
        other[place] += 3.0
        changed = replace(batch, extras={"actions": Actions(Exact(other), mask)})
        if name == "token":
            assert (float(objective(model, changed, totals).total) == loss) == (place > 0)
    hidden = replace(batch, extras={"actions": Actions(Exact(values), torch.zeros_like(mask))})
    found = objective(model, hidden, {"actions": 0.0})
    assert float(found.total) == 0.0
    found.total.backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_noise_depends_on_seed_sample_and_epoch_and_on_nothing_else(tmp_path: Path) -> None:
    model, objective = policy(tmp_path), Diffusion()
    apart = observations()
    apart = [replace(one, segment_sample=torch.tensor([n + 5])) for n, one in enumerate(apart)]
    totals = {"actions": 9.0}
    losses = [float(objective(model, one, totals).total) for one in apart]
    together = replace(packed(), segment_sample=torch.tensor([5, 6, 7]))
    assert float(objective(model, together, totals).total) == pytest.approx(sum(losses), rel=1e-5)
    for change in (
        {"epoch": 1},
        {"seed": 1},
        {"segment_sample": torch.tensor([8])},
        {"segment_copy": torch.tensor([1])},
    ):
        assert float(objective(model, replace(apart[0], **change), totals).total) != losses[0]


def test_noisy_actions_condition_the_sequence_only_in_context(tmp_path: Path) -> None:
    """The loss of a head outside of the sequence does not need the positions' embeddings of actions."""
    batch, objective = packed(), Diffusion()
    for name, used in (("in context", True), ("token", False)):
        model = policy(tmp_path, **HEADS[name])
        objective(model, batch, objective.counts(batch)).total.backward()
        assert bool(model.embedder.action_proj.weight.grad.any()) is used


def test_a_head_that_predicts_the_signal_learns_the_actions(tmp_path: Path) -> None:
    schedule = partial(CosineNoise, 20, prediction="signal")
    model, batch, objective = policy(tmp_path, schedule=schedule), packed(), Diffusion()
    with torch.no_grad():
        model.heads["actions"].proj.weight.zero_()
    values, mask = batch.extras["actions"].values.tensor, batch.extras["actions"].mask
    normalised = torch.stack((values[:, 0], (values[:, 1] - 1.0) / 3.0), dim=1)
    expected = normalised[mask].square().mean()
    assert float(objective(model, batch, objective.counts(batch)).total) == pytest.approx(float(expected), rel=1e-5)


def test_regression_learns_the_mean_of_normalised_actions(tmp_path: Path) -> None:
    model, batch, objective = policy(tmp_path, ActionHead, schedule=None), packed(), ActionRegression()
    with torch.no_grad():
        model.heads["actions"].proj.weight.zero_()
    values, mask = batch.extras["actions"].values.tensor, batch.extras["actions"].mask
    normalised = torch.stack((values[:, 0], (values[:, 1] - 1.0) / 3.0), dim=1)
    expected = normalised[mask].square().mean()
    assert float(objective(model, batch, objective.counts(batch)).total) == pytest.approx(float(expected), rel=1e-5)


def test_packs_and_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    batch = packed()
    with pytest.raises(WiringError, match="need true actions, and the packs have none"):
        Diffusion().counts(replace(batch, extras={}))
    fewer = Actions(Exact(torch.zeros(11, 2)), torch.ones(11, dtype=torch.bool))
    with pytest.raises(WiringError, match="12 positions of type ACTION and 11 actions"):
        Diffusion().counts(replace(batch, extras={"actions": fewer}))
    with pytest.raises(WiringError, match="Diffusion calls noise_of of the head 'actions', which ActionHead does not"):
        Diffusion().check(policy(tmp_path, ActionHead, schedule=None))
