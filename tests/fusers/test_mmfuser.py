"""MMFuser: sizes, neutral start, staging of the gradients, and what it refuses. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tiny
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.fusers import MMFuser
from mmcomponents.testing import small_parts


def fuser(levels: int = 2, width: int = 24) -> MMFuser:
    made = MMFuser((width,) * (levels + 1), num_heads=4, num_points=2)
    made.init_weights(0)
    return made


def maps(levels: int = 2, width: int = 24, hw: tuple[int, int] = (4, 3)) -> VisualFeatures:
    return VisualFeatures([FeatureMap(torch.randn(2, hw[0] * hw[1], width), hw) for _ in range(levels + 1)])


def tokens(made: MMFuser, features: VisualFeatures) -> Tensor:
    return made(features).primary.tokens


def test_the_published_size() -> None:
    with torch.device("meta"):
        made = MMFuser((1024,) * 5)
    assert sum(p.numel() for p in made.parameters()) == 5_190_592


@pytest.mark.parametrize("levels", [1, 2, 11])
def test_it_starts_as_the_deepest_map(levels: int) -> None:
    made, features = fuser(levels), maps(levels)
    assert torch.equal(tokens(made, features), features.primary.tokens)
    assert made(features).primary.hw == (4, 3)


def test_gradients_come_in_stages() -> None:
    made, features = fuser(), maps()
    target = torch.randn_like(features.primary.tokens)

    def gradients() -> dict[str, float]:
        made.zero_grad()
        (tokens(made, features) * target).sum().backward()
        return {name: float(p.grad.abs().max()) for name, p in made.named_parameters() if p.grad is not None}

    first = gradients()
    assert first["gamma1"] > 0
    assert {name for name, value in first.items() if value > 0} == {"gamma1"}
    with torch.no_grad():
        made.gamma1.sub_(0.1 * made.gamma1.grad)
    second = gradients()
    assert second["gamma2"] > 0
    assert second["cross_attention.values.weight"] > 0
    assert second["self_attention.values.weight"] == 0
    with torch.no_grad():
        made.gamma2.sub_(0.1 * made.gamma2.grad)
    third = [name for name, value in gradients().items() if value == 0]
    assert third == ["query_norm.weight", "query_norm.bias"]  # places and weights do not depend on the query yet
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.sub_(0.1 * parameter.grad)
    assert [name for name, value in gradients().items() if value == 0] == []


def test_opened_it_reads_every_level_of_any_grid() -> None:
    made = fuser()
    torch.nn.init.ones_(made.gamma1)
    features = maps()
    features.maps[0] = FeatureMap(torch.randn(2, 5 * 2, 24), (5, 2))
    before = tokens(made, features)
    for level in range(2):
        changed = list(features.maps)
        changed[level] = FeatureMap(torch.randn_like(features.maps[level].tokens), features.maps[level].hw)
        assert (tokens(made, VisualFeatures(changed)) - before).abs().max() > 1e-3


def test_flops_are_those_of_the_products() -> None:
    made, features = fuser(), maps(hw=(8, 8))
    with FlopCounterMode(display=False) as counter:
        tokens(made, features)
    samples = 2 * 64 * 24 * 2 * (2 + 1) * 10
    assert made.map_flops(2, (8, 8)) == counter.get_total_flops() + samples


@pytest.mark.parametrize(
    ("levels", "options", "said"),
    [
        ((-1,), {}, "MMFuser takes at least two maps and is given 1: set the levels of the encoder"),
        ((1, 2), {"num_levels": 4}, "MMFuser takes 5 maps, num_levels and the query, and is given 2"),
    ],
    ids=["one map", "fewer levels"],
)
def test_levels_that_the_encoder_does_not_give_are_refused(levels: Any, options: Any, said: str) -> None:
    parts = small_parts(vision=tiny.vision_factory(levels=levels), fuser=partial(MMFuser, num_heads=4, **options))
    with pytest.raises(WiringError, match=rf"{said}.*\(InternViT gives maps of width"):
        Factories(**parts).build(tiny.VOCAB, None)


def test_maps_of_unequal_widths_are_refused() -> None:
    with pytest.raises(WiringError, match=r"takes maps of one width and is given \(24, 32\)"):
        MMFuser((24, 32))
    with pytest.raises(WiringError, match="built for 3 maps and is given 2"):
        fuser()(maps(levels=1))
