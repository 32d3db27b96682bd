"""State of decoding: a prefix that is continued in several ways, and the types of the tokens that follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.generation.past import Past
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime


def step(model: MultimodalModel, batch: PackedBatch, past: Past) -> Tensor:
    """Returns the hidden states of a call with a cache."""
    hidden: Tensor = model(batch, Runtime(cache=past.cache)).hidden
    past.advance(model, batch)
    return hidden


def continued(model: MultimodalModel, prompt: PackedBatch, past: Past, tokens: list[int]) -> list[Tensor]:
    batch, found = prompt, []
    for token in tokens:
        batch = past.one_more(batch, [token], [0])
        found.append(step(model, batch, past))
    return found


@torch.no_grad()
def test_forks_of_a_prefix_equal_prefixes_of_their_own() -> None:
    model, prompt = tiny.model().double(), tiny.pack([("t", 4), ("i", 1), ("t", 3)])
    prompt = replace(prompt, images=replace(prompt.images, pixels=prompt.images.require_pixels().double()))
    past = Past()
    step(model, prompt, past)
    forks = [past.fork(), past.fork()]
    lengths, ticks = list(past.cache.lengths), past.last_ticks.clone()
    for fork, tokens in zip([*forks, past], ([5, 6, 7], [9, 8], [5, 6, 7]), strict=True):
        alone = Past()
        step(model, prompt, alone)
        expected = continued(model, prompt, alone, tokens)
        if fork is past:  # the others have left it as it was
            assert past.cache.lengths == lengths
            assert torch.equal(past.last_ticks, ticks)
        for found, wanted in zip(continued(model, prompt, fork, tokens), expected, strict=True):
            assert torch.equal(found, wanted)


def test_new_tokens_have_the_type_that_they_are_given() -> None:
    past, prompt = (
        Past(),
        replace(tiny.pack([("t", 3)], [("t", 2)]), seed=4, epoch=2, segment_copy=torch.tensor([0, 3])),
    )
    past.cache.lengths = [3, 2]
    assert past.one_more(prompt, [7, 8], [0, 1]).layout.token_type.tolist() == [TokenType.TEXT] * 2
    batch = past.one_more(prompt, [7], [1], token_type=TokenType.IMAGE_GEN)
    assert batch.layout.token_type.tolist() == [TokenType.IMAGE_GEN]
    assert (batch.seed, batch.epoch, batch.segment_copy.tolist()) == (4, 2, [3])


@torch.no_grad()
def test_a_new_token_is_no_visual_token() -> None:
    model, prompt, past = tiny.model(), tiny.pack([("t", 3)]), Past()
    step(model, prompt, past)
    with pytest.raises(ValueError, match="the pack has 1 image tokens and 0 of them point to a visual token"):
        step(model, past.one_more(prompt, [7], [0], TokenType.IMAGE), past)
