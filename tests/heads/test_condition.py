"""The head that conditions a denoiser. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import got
import tiny
from mmcomponents.component import WiringError
from mmcomponents.embedders import QueryEmbedder, TokenEmbedder
from mmcomponents.heads import Condition, ConvAutoencoder, LMHead


def head() -> Condition:
    made = got.CONDITION(tiny.WIDTH, None)
    made.init_weights(0)
    return made


def test_states_are_those_of_the_last_queries_of_each_segment() -> None:
    batch = tiny.pack([("t", 2), ("q", 4), ("t", 1), ("q", 4)], [("t", 3)], [("q", 4), ("t", 2)])
    hidden = torch.randn(batch.num_tokens, tiny.WIDTH)
    found = head().queries(hidden, batch)
    assert torch.equal(found, torch.stack((hidden[7:11], hidden[14:18])))
    with pytest.raises(WiringError, match="a segment has 3 positions of type QUERY, and a picture has 4 queries"):
        head().queries(hidden, tiny.pack([("q", 3)]))


def test_words_are_a_linear_map_and_without_words_that_of_zeros() -> None:
    made, queries = head(), torch.randn(2, got.QUERIES, tiny.WIDTH)
    semantic = made.semantic(queries)
    torch.testing.assert_close(semantic.pooled, made.pooled(queries.mean(1)))
    unsaid = made.without_words(semantic)
    assert torch.equal(unsaid.context, made.context(torch.zeros_like(queries)))
    assert torch.equal(unsaid.pooled, semantic.pooled)


def test_at_the_start_reference_and_layout_change_nothing() -> None:
    made = head()
    noisy, other = torch.randn(2, 2, 2, 4, 4).unbind()
    semantic = made.semantic(torch.randn(2, got.QUERIES, tiny.WIDTH))
    level = torch.tensor([3, 7])
    plain = made.predicted(noisy, level, torch.zeros_like(noisy), torch.zeros_like(noisy), semantic)
    assert torch.equal(made.predicted(noisy, level, other, -other, semantic), plain)
    made.denoiser.enter.added.data.fill_(0.1)
    for reference, layout in ((other, 0 * other), (0 * other, other)):
        assert (made.predicted(noisy, level, reference, layout, semantic) - plain).abs().max() > 1e-3


def test_wrong_neighbours_are_refused_with_both_numbers() -> None:
    with pytest.raises(WiringError, match="QueryEmbedder has 5 queries and Condition reads 4"):
        got.model(embedder=partial(QueryEmbedder, num_queries=5))
    with pytest.raises(WiringError, match="Condition reads 4 queries and TokenEmbedder has 0: use QueryEmbedder"):
        got.model(embedder=TokenEmbedder)
    heads = {"lm": LMHead, "picture": got.CONDITION}
    wide = partial(ConvAutoencoder, picture_size=16, latent_channels=3, widths=(8, 8))
    with pytest.raises(WiringError, match="latents of ConvAutoencoder have 3 channels, and those of UNetDenoiser 2"):
        got.model(heads=heads | {"autoencoder": wide})
    large = partial(ConvAutoencoder, picture_size=16, latent_channels=2, widths=(8,))
    with pytest.raises(WiringError, match="ConvAutoencoder have 8 places along a side, and those of UNetDenoiser 4"):
        got.model(heads=heads | {"autoencoder": large})
    with pytest.raises(WiringError, match="Condition needs a Denoiser, and LMHead is none"):
        Condition(8, None, lambda: LMHead(8, 9), got.CONDITION.keywords["schedule"])


def test_flops_grow_with_pictures() -> None:
    made = head()
    none, one, two = (tiny.pack([("t", 3)], *[[("q", 4)]] * count) for count in range(3))
    assert made.flops(none) == 0 < made.flops(one)
    assert made.flops(two) == 2 * made.flops(one)
