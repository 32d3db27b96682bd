"""The unconditional token. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import torch

import tiny
from mmcomponents.batch import TokenType
from mmcomponents.embedders import GuidedEmbedder, TokenEmbedder
from mmcomponents.testing import pack


def test_the_learned_vector_is_added_where_a_prompt_is_left_out() -> None:
    plain, made = TokenEmbedder(tiny.VOCAB, tiny.WIDTH), GuidedEmbedder(tiny.VOCAB, tiny.WIDTH)
    for part in (plain, made):
        part.init_weights(0, "embedder")
    batch = pack([("t", 6)])
    kind = batch.layout.token_type.clone()
    kind[4] = int(TokenType.QUERY)
    batch = replace(batch, layout=replace(batch.layout, token_type=kind))
    assert torch.equal(made(batch, None), plain(batch, None))
    made.unconditional.data.fill_(0.5)
    changed = (made(batch, None) - plain(batch, None)).abs() > 0
    assert changed.all(1).tolist() == [place == 4 for place in range(6)]
    made(batch, None).sum().backward()
    assert torch.equal(made.unconditional.grad, torch.ones(tiny.WIDTH))
