"""ChannelMapper: levels of one width from maps of any, and what it refuses. Contracts: tests/contracts."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers import ChannelMapper

GRIDS = [(8, 5), (4, 3)]


def features(*widths: int) -> VisualFeatures:
    return VisualFeatures(
        [FeatureMap(torch.randn(2, h * w, c), (h, w)) for (h, w), c in zip(GRIDS, widths, strict=False)]
    )


def test_the_published_size() -> None:
    with torch.device("meta"):
        made = ChannelMapper((512, 1024, 2048))
    convs = (512 + 1024 + 2048) * 256 + 9 * 2048 * 256
    assert sum(p.numel() for p in made.parameters()) == convs + 4 * 2 * 256


def test_coarser_levels_are_made_of_the_last_map_and_then_of_each_other() -> None:
    made = ChannelMapper((12, 20), width=16, num_levels=4, num_groups=4)
    given = features(12, 20)
    levels = made(given).maps
    assert [level.hw for level in levels] == made.grids(GRIDS) == [(8, 5), (4, 3), (2, 2), (1, 1)]
    last = given.maps[-1].tokens.transpose(1, 2).unflatten(2, (4, 3))
    third = made.norms[2](made.extra_convs[0](last))
    assert torch.allclose(levels[2].tokens, third.flatten(2).transpose(1, 2), atol=1e-6)
    fourth = made.norms[3](made.extra_convs[1](third))
    assert torch.allclose(levels[3].tokens, fourth.flatten(2).transpose(1, 2), atol=1e-6)


def test_one_map_of_an_encoder_without_pyramid_is_enough() -> None:
    made = ChannelMapper(12, width=16, num_levels=3, num_groups=4)
    assert [level.hw for level in made(features(12)).maps] == [(8, 5), (4, 3), (2, 2)]


def test_what_it_refuses() -> None:
    with pytest.raises(WiringError, match="ChannelMapper has num_levels 1 and is given 2 maps"):
        ChannelMapper((12, 20), num_levels=1)
    with pytest.raises(ValueError, match="the width 20 is not a multiple of num_groups 32"):
        ChannelMapper(12, width=20)
    made = ChannelMapper((12, 20), width=16, num_groups=4)
    with pytest.raises(WiringError, match="built for 2 maps and is given 1"):
        made(features(12))
    unequal = VisualFeatures(features(12, 20).maps, valid_hw=torch.tensor([[32, 20], [16, 20]]))
    with pytest.raises(ValueError, match="is given 2 tiles of unequal images, and 2 of 2 maps do not tell"):
        made(unequal)
