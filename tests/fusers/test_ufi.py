"""U-like feature interaction: own weights for each layer, and the last layer as it is. Contracts: tests/contracts."""

from __future__ import annotations

import torch

import midetr
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.fusers import DeformableEncoder, UFIEncoder

WIDTHS = (32, 64, 128)


def maps() -> VisualFeatures:
    draw = torch.Generator().manual_seed(3)
    grids = [(8, 6), (4, 3), (2, 2)]
    return VisualFeatures(
        [FeatureMap(torch.randn(2, h * w, c, generator=draw), (h, w)) for (h, w), c in zip(grids, WIDTHS, strict=True)]
    )


def test_each_layer_is_fused_with_the_last_one() -> None:
    made, given = midetr.UNIFIED(WIDTHS), maps()
    midetr.stir(made)
    every, found = made.layers(given), made(given).maps
    assert len(found) == len(made.out_features) == 3 * 4
    for number in range(2):
        for level in range(4):
            both = torch.cat((every[2][level].tokens, every[number][level].tokens), dim=-1)
            expected = made.norm[number](made.linear[number](both))
            assert torch.allclose(found[4 * number + level].tokens, expected)
    for level in range(4):
        assert torch.equal(found[8 + level].tokens, every[2][level].tokens)


def test_it_starts_from_a_plain_encoder() -> None:
    plain, unified = DeformableEncoder(WIDTHS, midetr.NECK, 2, 2, 2, 20), UFIEncoder(WIDTHS, midetr.NECK, 2, 2, 2, 20)
    for made in (plain, unified):
        made.init_weights(0, "fuser")
    other = unified.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.state_dict().items())
    own = {name.partition(".")[0] for name in other.keys() - plain.state_dict().keys()}
    assert own == {"linear", "norm"}
