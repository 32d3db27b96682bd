"""Deformable encoder: what a layer sees, padding, positions. Contracts: tests/contracts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import midetr
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers import DeformableEncoder, Fuser
from mmcomponents.nn.sine_positions import grid_embedding

WIDTHS = (32, 64, 128)


def maps(tiles: int = 2) -> VisualFeatures:
    draw = torch.Generator().manual_seed(3)
    grids = [(8, 6), (4, 3), (2, 2)]
    return VisualFeatures(
        [
            FeatureMap(torch.randn(tiles, h * w, c, generator=draw), (h, w))
            for (h, w), c in zip(grids, WIDTHS, strict=True)
        ]
    )


def encoder() -> DeformableEncoder:
    made = midetr.PLAIN(WIDTHS)
    made.init_weights(0)
    midetr.stir(made)
    return made


def test_it_returns_the_last_of_its_layers() -> None:
    made, given = encoder(), maps()
    every = made.layers(given)
    assert len(every) == 3
    assert [len(levels) for levels in every] == [4, 4, 4]
    for one, other in zip(made(given).maps, every[-1], strict=True):
        assert torch.equal(one.tokens, other.tokens)
    assert (every[0][0].tokens - every[1][0].tokens).abs().max() > 0.1


def test_a_layer_is_attention_and_feed_forward_before_their_norms() -> None:
    made, given = encoder(), maps()
    levels = made.neck(given).maps
    tokens = torch.cat([level.tokens for level in levels], dim=1)
    centres, positions = [], []
    for level, embedding in zip(levels, made.level_embedding, strict=True):
        rows, columns = level.hw
        place = [((c + 0.5) / columns, (r + 0.5) / rows) for r in range(rows) for c in range(columns)]
        centres += place
        positions.append(grid_embedding(torch.tensor(place), midetr.WIDTH) + embedding)
    layer, grids = made.encoder[0], [level.hw for level in levels]
    reach = torch.tensor([[1 / columns, 1 / rows] for rows, columns in grids])[None, None]
    query = tokens + torch.cat(positions)
    found = layer.attention.attend(
        query, torch.tensor(centres)[None, :, None], reach, tokens.split([48, 12, 4, 1], dim=1), grids
    )
    x = layer.norm1(tokens + found)
    expected = layer.norm2(x + layer.fc2(torch.relu(layer.fc1(x))))
    first = torch.cat([level.tokens for level in made.layers(given)[0]], dim=1)
    assert torch.allclose(first, expected, atol=1e-5)


def test_padding_changes_nothing() -> None:
    model = midetr.detector(fuser=midetr.PLAIN)
    batch = midetr.images((64, 40), (33, 64), (96, 96))
    with torch.no_grad():
        features = model.vision(batch)
        one = model.fuser(features)
        for m in features.maps:
            grid = m.tokens.unflatten(1, m.hw)
            for tile, (rows, columns) in enumerate(m.valid_hw.tolist()):
                grid[tile, rows:] = 100.0
                grid[tile, :, columns:] = 100.0
        two = model.fuser(features)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(one.maps, two.maps, strict=True))
    for tile in range(2):
        with torch.no_grad():
            own = model.fuser(model.vision(midetr.alone(batch, tile)))
        for m, single in zip(one.maps, own.maps, strict=True):
            rows, columns = m.valid_hw[tile].tolist()
            grids = [
                x.unflatten(0, hw)[:rows, :columns] for x, hw in ((m.tokens[tile], m.hw), (single.tokens[0], single.hw))
            ]
            assert torch.allclose(*grids, atol=1e-4)


def test_flops_are_those_of_the_products() -> None:
    made = encoder()
    given = VisualFeatures(
        [
            FeatureMap(torch.randn(2, h * w, c), (h, w))
            for (h, w), c in zip([(8, 8), (4, 4), (2, 2)], WIDTHS, strict=True)
        ]
    )
    with FlopCounterMode(display=False) as counter:
        made(given)
    samples = 2 * 3 * (64 + 16 + 4 + 1) * 4 * 2 * midetr.WIDTH * 10
    assert made.map_flops(2, (2, 2)) == counter.get_total_flops() + samples


def test_levels_of_unequal_widths_are_refused() -> None:
    class Same(Fuser):
        def __init__(self, in_features: tuple[int, ...]) -> None:
            super().__init__()
            self.in_features = self.out_features = in_features

        def forward(self, features: VisualFeatures) -> VisualFeatures:
            return features

    with pytest.raises(WiringError, match=r"takes levels of one width, as a tuple, and Same gives \(32, 64\)"):
        DeformableEncoder((32, 64), Same)
