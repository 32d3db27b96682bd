"""Nearest words of visual tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation.visual_words import nearest_words
from mmcomponents.heads import LMHead
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import small_model


@pytest.fixture
def model(tokenizer):
    vocab = len(tokenizer)
    return small_model(
        projector=LinearProjector,
        embedder=lambda _, width: TokenEmbedder(vocab, width),
        heads={"lm": lambda width, _: LMHead(width, vocab)},
    )


def test_visual_tokens_that_are_words_find_them(model, tokenizer) -> None:
    (cat,) = tokenizer.encode(" cat", add_special_tokens=False)
    nn.init.zeros_(model.projector.linear.weight)
    with torch.no_grad():
        model.projector.linear.bias.copy_(-3 * model.embedder.embedding_weight()[cat])
        (found,) = nearest_words(model, torch.randn(1, 3, tiny.TILE, tiny.TILE), tokenizer, top=2)
        assert found.words[0][0] != " cat"
        model.projector.linear.bias.mul_(-1)
    found, _ = nearest_words(model, torch.randn(2, 3, tiny.TILE, tiny.TILE), tokenizer, top=2)
    assert [words[0] for words in found.words] == [" cat"] * tiny.VISUAL_TOKENS
    assert found.grid == (2, 2)
    assert found.cosines.shape == (tiny.VISUAL_TOKENS, 2)
    torch.testing.assert_close(found.cosines[:, 0], torch.ones(4))
    assert (found.cosines[:, 0] > found.cosines[:, 1]).all()


def test_words_can_be_seen(model, tokenizer) -> None:
    (found,) = nearest_words(model, torch.randn(1, 3, tiny.TILE, tiny.TILE), tokenizer, top=60)
    words = {word for token in found.words for word in token}
    assert all(word.strip() and word.strip().isprintable() for word in words)
    assert not words & set(tokenizer.get_added_vocab())


def test_what_has_no_words_is_refused(model, tokenizer) -> None:
    pixels = torch.randn(1, 3, tiny.TILE, tiny.TILE)
    with pytest.raises(ValueError, match=r"top must be from 1 to \d+, the number of words, got 0"):
        nearest_words(model, pixels, tokenizer, top=0)
    blind = small_model(vision=None, merger=None, projector=None, embedder=None, position=None, backbone=None, heads={})
    with pytest.raises(WiringError, match="no embedding weight"):
        nearest_words(blind, pixels, tokenizer)
