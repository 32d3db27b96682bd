"""Any module as a projector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.projectors import LinearProjector, ModuleProjector
from mmcomponents.testing.packs import pack


def features(width: int) -> VisualFeatures:
    return VisualFeatures((FeatureMap(torch.randn(2, 4, width), (2, 2)),))


class Flat(nn.Module):
    """Flattens its tokens, which a projector must not."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(tokens).flatten(0, 1)


def test_a_linear_module_equals_the_linear_projector() -> None:
    ours, other = ModuleProjector(6, 8, nn.Linear), LinearProjector(6, 8)
    other.linear.load_state_dict(ours.module.state_dict())
    given = features(6)
    assert torch.equal(ours(given), other(given))
    batch = pack([("i", 1), ("t", 3)])
    assert ours.flops(batch) == other.flops(batch) > 0


class Spread(nn.Module):
    """Takes tokens of any width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(out))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(-1, keepdim=True) * self.scale


def test_a_width_that_the_module_does_not_notice_is_refused() -> None:
    with pytest.raises(WiringError, match="ModuleProjector takes feature maps of width 8, got 32"):
        ModuleProjector(8, 8, Spread)(features(32))


def test_equal_seeds_give_equal_weights() -> None:
    one, two = ModuleProjector(6, 8, nn.Linear), ModuleProjector(6, 8, nn.Linear)
    for projector in (one, two):
        projector.init_weights(seed=3)
    assert torch.equal(one.module.weight, two.module.weight)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Flat, r"Flat maps tokens \[2, 3, 6\] to \[6, 8\], and ModuleProjector needs \[2, 3, 8\]"),
        (lambda width, out: nn.Linear(width, out + 1), r"to \[2, 3, 9\]"),
        (lambda width, out: nn.Linear(width + 1, out), r"Linear does not take tokens \[2, 3, 6\]"),
        (lambda width, out: "x", "its factory made a str"),
        (torch.nn.Linear(24, 32), "such as the class Linear, not a module"),
    ],
)
def test_modules_of_other_shapes_are_refused(module, message: str) -> None:
    with pytest.raises(WiringError, match=message):
        ModuleProjector(6, 8, module)
    with pytest.raises(WiringError, match="takes one feature map and is given 2"):
        ModuleProjector((6, 6), 8, nn.Linear)
