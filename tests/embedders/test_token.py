"""Token embedder: token embeddings, visual tokens at their positions, and embeddings inserted by the runtime."""

from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.batch import TokenType
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.nn.runtime import Runtime


def test_visual_tokens_replace_the_placeholders_alone() -> None:
    embedder, batch = TokenEmbedder(tiny.VOCAB, 8), tiny.pack([("t", 3), ("i", 1), ("t", 2)])
    visual = torch.randn(tiny.VISUAL_TOKENS, 8)
    out = embedder(batch, visual)
    places = batch.visual_index >= 0
    assert torch.equal(out[places], visual[batch.visual_index[places]])
    assert torch.equal(out[~places], embedder.embedding_weight()[batch.input_ids[~places]])


def test_visual_tokens_without_a_position_get_a_gradient_of_zero() -> None:
    embedder, batch = TokenEmbedder(tiny.VOCAB, 8), tiny.pack([("t", 3)])
    blank = torch.randn(tiny.VISUAL_TOKENS, 8, requires_grad=True)
    embedder(batch, blank).sum().backward()
    assert torch.equal(blank.grad, torch.zeros_like(blank))


def test_the_runtime_inserts_embeddings_by_token_type() -> None:
    embedder, batch = TokenEmbedder(tiny.VOCAB, 8), tiny.pack([("t", 3), ("i", 1)])
    texts = int((batch.layout.token_type == TokenType.TEXT).sum())
    given = torch.randn(texts, 8)
    out = embedder(batch, torch.zeros(tiny.VISUAL_TOKENS, 8), Runtime(inserted={TokenType.TEXT: given}))
    assert torch.equal(out[batch.layout.token_type == TokenType.TEXT], given)
    with pytest.raises(ValueError, match=f"{texts - 1} tokens for the {texts} positions of type TEXT"):
        embedder(batch, None, Runtime(inserted={TokenType.TEXT: given[1:]}))
