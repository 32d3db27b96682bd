"""Samplers of actions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation import DDIM, Context, DirectActions
from mmcomponents.generation.past import Past
from mmcomponents.heads import ActionHead, PooledDenoisingHead, TokenDenoisingHead
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import ActionRegression
from mmcomponents.testing import pack
from mmcomponents.testing.packs import join
from policy import observations, packed, policy

HEADS: dict[str, dict[str, Any]] = {
    "in context": {},
    "token": {"head": partial(TokenDenoisingHead, num_blocks=1)},
    "pooled": {"head": partial(PooledDenoisingHead, num_blocks=1, horizon=4)},
}


class Recomputed(DDIM):
    """Computes text and images again in each step."""

    def prefilled(self, model: MultimodalModel, prefix: PackedBatch) -> Past | None:
        return None


def drawn(sampler: Any, model: MultimodalModel, seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        answers = sampler.answer(model, packed(), Context(generator=torch.Generator().manual_seed(seed)))
    return torch.stack([answer.values for answer in answers])


@pytest.mark.parametrize("name", HEADS)
def test_each_prompt_gets_a_chunk_in_the_units_of_the_data(name: str, tmp_path: Path) -> None:
    model = policy(tmp_path, **HEADS[name])
    found = drawn(DDIM(4), model)
    assert found.shape == (3, 4, 2)
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 4.0])
    assert bool(((found >= low) & (found <= high)).all())
    assert torch.equal(found, drawn(DDIM(4), model))
    assert not torch.equal(found, drawn(DDIM(4), model, seed=1))
    assert torch.equal(drawn(DDIM(4, past=1), model), found[:, 1:])


def test_draws_without_a_generator_are_those_of_the_prompt(tmp_path: Path) -> None:
    model, single = policy(tmp_path).double(), observations()
    for number, one in enumerate(single):
        one.segment_sample[:] = number
    together = DDIM(3).answer(model, join(*single), Context())
    torch.manual_seed(5)
    for one, found in zip(single, together, strict=True):
        (alone,) = DDIM(3).answer(model, one, Context())
        torch.testing.assert_close(alone.values, found.values)
    (other,) = DDIM(3).answer(model, replace(single[0], seed=1), Context())
    assert not torch.equal(other.values, together[0].values)


def test_cached_text_and_images_give_what_computing_them_again_gives(tmp_path: Path) -> None:
    model = policy(tmp_path).double()
    torch.testing.assert_close(drawn(DDIM(5), model), drawn(Recomputed(5), model), rtol=1e-6, atol=1e-6)


def test_the_backbone_reads_text_and_images_once(tmp_path: Path) -> None:
    model, seen = policy(tmp_path), list[int]()
    model.backbone.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    batch = packed()
    tail = int(torch.isin(batch.layout.token_type, torch.tensor([TokenType.TIME, TokenType.ACTION])).sum())
    drawn(DDIM(5), model)
    assert seen == [batch.num_tokens - tail, *[tail] * 5]
    seen.clear()
    drawn(DDIM(5), policy(tmp_path, **HEADS["token"]))
    assert seen == []


@pytest.mark.parametrize("name", HEADS)
def test_an_image_changes_the_actions(name: str, tmp_path: Path) -> None:
    model, batch = policy(tmp_path, **HEADS[name]), packed()
    with torch.no_grad():
        one = DDIM(3)(model, batch, Context(generator=torch.Generator().manual_seed(0)))
        batch.images.pixels[0] += 1.0
        other = DDIM(3)(model, batch, Context(generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(one[0].values, other[0].values)
    torch.testing.assert_close(one[1].values, other[1].values)


def test_direct_actions_are_those_of_the_head(tmp_path: Path) -> None:
    model = policy(tmp_path, ActionHead, schedule=None)
    found = drawn(DirectActions(), model)
    expected = model(packed(), read=lambda heads, state: heads["actions"](state, packed()))
    torch.testing.assert_close(found[0, :, 1], 3.0 * expected[:4, 1] + 1.0)


def test_actions_are_not_read_from_a_head_for_noise(tmp_path: Path) -> None:
    model = policy(tmp_path)
    with pytest.raises(WiringError, match="DirectActions takes what the head 'actions' predicts"):
        DirectActions().check(model)
    with pytest.raises(WiringError, match="ActionRegression trains the head 'actions' without noise: DenoisingHead"):
        ActionRegression().check(model)


def test_prompts_and_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = policy(tmp_path)
    with pytest.raises(WiringError, match="the prompt tiny/0 has 0 positions of type ACTION, and DDIM leaves out 0"):
        DDIM(2)(model, pack([("x", 3)]), Context())
    with pytest.raises(WiringError, match="has 4 positions of type ACTION, and DDIM leaves out 4"):
        DDIM(2, past=4)(model, packed(), Context())
    with pytest.raises(WiringError, match="DDIM has 21 steps and the schedule of 'actions' 20 noise levels"):
        DDIM(21).check(model)
    with pytest.raises(WiringError, match="reads the head 'other' and the model has actions"):
        DDIM(2, head="other").check(model)
    with pytest.raises(WiringError, match="DDIM calls noise_of of the head 'actions', which ActionHead does not have"):
        DDIM(2).check(policy(tmp_path, ActionHead, schedule=None))


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    model = policy(tmp_path)
    with torch.no_grad():
        model.heads["actions"].proj.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="actions of tiny/0, tiny/0, tiny/0 are NaN or infinite"):
        drawn(DDIM(2), model)
