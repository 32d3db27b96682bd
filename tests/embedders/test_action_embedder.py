"""Embedders of policies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcomponents.batch import TokenType
from mmcomponents.component import WiringError
from mmcomponents.embedders import ActionEmbedder, LinearActionEmbedder
from mmcomponents.nn.runtime import Runtime
from policy import TEXT, WIDTH, WordVectors, packed, policy


def inserted(actions: torch.Tensor) -> Runtime:
    return Runtime(inserted={TokenType.ACTION: actions, TokenType.TIME: torch.tensor([3, 0, 19])})


def test_each_type_of_position_gets_its_own(tmp_path: Path) -> None:
    embedder, batch = ActionEmbedder(64, WIDTH, WordVectors, 2).eval(), packed()
    kinds, visual = batch.layout.token_type, torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0))
    actions = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    x = embedder(batch, visual, inserted(actions))
    torch.testing.assert_close(x[kinds == TokenType.IMAGE], visual)
    texts = embedder.text_proj(embedder.external(batch))
    torch.testing.assert_close(x[kinds == TokenType.EXTERNAL], texts)
    rows = x[kinds == TokenType.ACTION]
    torch.testing.assert_close(rows[:, :2], actions)
    assert not rows[:, 2:].any()
    double = embedder(batch, visual, inserted(2 * actions))
    torch.testing.assert_close(double[kinds == TokenType.ACTION], 2 * rows)
    times = x[kinds == TokenType.TIME]
    assert len({tuple(row.tolist()) for row in times}) == 3


def test_without_actions_their_positions_are_zeros() -> None:
    for kind in (ActionEmbedder, LinearActionEmbedder):
        batch = packed()
        x = kind(64, WIDTH, WordVectors, 2)(batch, torch.randn(12, WIDTH))
        assert not x[batch.layout.token_type == TokenType.ACTION].any()
        assert not x[batch.layout.token_type == TokenType.TIME].any()


def test_a_learned_map_uses_the_whole_width() -> None:
    batch = packed()
    x = LinearActionEmbedder(64, WIDTH, WordVectors, 2)(batch, torch.randn(12, WIDTH), inserted(torch.ones(12, 2)))
    assert bool((x[batch.layout.token_type == TokenType.ACTION] != 0).all())


def test_features_of_the_same_width_are_used_as_they_are() -> None:
    embedder = ActionEmbedder(64, TEXT, WordVectors, 2)
    assert not list(embedder.parameters())
    assert embedder.embedding_weight() is None


def test_wrong_numbers_are_refused() -> None:
    batch, visual = packed(), torch.randn(12, WIDTH)
    embedder = ActionEmbedder(64, WIDTH, WordVectors, 2)
    with pytest.raises(ValueError, match="11 actions for 12 positions"):
        embedder(batch, visual, inserted(torch.zeros(11, 2)))
    with pytest.raises(ValueError, match=r"actions have \[3\] values, action_width is 2"):
        embedder(batch, visual, inserted(torch.zeros(12, 3)))
    with pytest.raises(WiringError, match="actions of 40 values do not fit a width of 32"):
        ActionEmbedder(64, WIDTH, WordVectors, 40)


def test_the_text_is_encoded_once_and_conditions_the_images(tmp_path: Path) -> None:
    model, batch = policy(tmp_path), packed()
    state = model(batch)
    assert model.embedder.text.calls == 1
    other = batch.input_ids.clone()
    first = int((batch.layout.token_type == TokenType.EXTERNAL).nonzero()[0])
    other[first] = 59 - other[first]
    batch.input_ids = other
    changed = (model(batch).visual_tokens - state.visual_tokens).abs().amax(1) > 1e-6
    tiles = changed.view(-1, 3).any(1).tolist()
    assert tiles == [True, False, False, False]  # those of the first observation alone
