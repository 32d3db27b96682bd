"""Merging of the maps of several branches to one, as PIIP does (arXiv 2406.04330, section 3.3; 2501.07783).

Reference code: OpenGVLab/PIIP.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers.base import Fuser
from mmcomponents.limits import check_sizes
from mmcomponents.nn.nf4_linear import linear_weights


class GatedMerge(Fuser):
    """Adds to the first of several maps the others, resized to its grid, with a gate of zeros at the start.

    The number of visual tokens is then that of the first map, the one of the largest network: a model that was trained
    with this network alone has the same outputs at the start.

    Args:
        in_features: Widths of the maps, the first one being kept.
        reduction: Rows of the primary map, the last one, over those of the first one, for the number of tokens.

    Raises:
        WiringError: There is one map only.
    """

    def __init__(self, in_features: int | tuple[int, ...], reduction: int = 2) -> None:
        super().__init__()
        check_sizes(reduction=reduction)
        widths = _several("GatedMerge", in_features)
        self.in_features, self.out_features, self.reduction = widths, widths[0], reduction
        self.linear = nn.ModuleList(nn.Linear(width, widths[0]) for width in widths[1:])
        self.gates = nn.ParameterList(torch.empty(widths[0]) for _ in widths[1:])
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills the gates with zeros."""
        if name.startswith("gates."):
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Returns the grid of the first map.

        Raises:
            WiringError: The grid of the primary map is no multiple of it.
        """
        if hw[0] % self.reduction or hw[1] % self.reduction:
            raise WiringError(
                f"GatedMerge divides the grid by {self.reduction}, and the primary map is {hw[0]} x {hw[1]}"
            )
        return hw[0] // self.reduction, hw[1] // self.reduction

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Merges maps `[N, h*w, C]` to one `[N, h*w, C]` on the grid of the first.

        Raises:
            WiringError: The grids of the first and the last map are not in the ratio of `reduction`.
        """
        first, *others = features.maps
        if first.hw != self.grid(features.primary.hw):
            raise WiringError(
                f"GatedMerge has the reduction {self.reduction}, and its maps are {first.hw} and {features.primary.hw}"
            )
        tokens = first.tokens
        for linear, gate, other in zip(self.linear, self.gates, others, strict=True):
            tokens = tokens + gate * linear(_to_grid(other.tokens, other.hw, first.hw))
        return replace(features, maps=[FeatureMap(tokens, first.hw, "merged")])

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts a linear map for each other map."""
        rows, columns = self.grid(hw)
        return 2.0 * num_tiles * rows * columns * linear_weights(self)


class DetectionMerge(Fuser):
    """Sums the maps on the largest grid, each after two convolutions and times a learned number, 1 at the start.

    Args:
        in_features: Widths of the maps; the sum has the width of the first one.
        num_groups: Number of groups of the norms, which divides that width.

    Raises:
        WiringError: There is one map only.
    """

    def __init__(self, in_features: int | tuple[int, ...], num_groups: int = 32) -> None:
        super().__init__()
        widths = _several("DetectionMerge", in_features)
        self.in_features, self.out_features = widths, widths[0]
        check_sizes(num_groups=num_groups)
        if widths[0] % num_groups:
            raise ValueError(f"the width {widths[0]} is not a multiple of num_groups {num_groups}")
        self.first = nn.ModuleList(nn.Conv2d(width, widths[0], 3, padding=1, bias=False) for width in widths)
        self.second = nn.ModuleList(nn.Conv2d(widths[0], widths[0], 3, padding=1, bias=False) for _ in widths)
        self.norm1 = nn.ModuleList(nn.GroupNorm(num_groups, widths[0]) for _ in widths)
        self.norm2 = nn.ModuleList(nn.GroupNorm(num_groups, widths[0]) for _ in widths)
        self.scale = nn.Parameter(torch.empty(len(widths)))
        self.init_weights()

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Merges maps `[N, h*w, C]` to one on the grid of the last."""
        hw = features.primary.hw
        total: Tensor | None = None
        for i, source in enumerate(features.maps):
            image = source.tokens.transpose(1, 2).unflatten(2, source.hw)
            for conv, norm in ((self.first[i], self.norm1[i]), (self.second[i], self.norm2[i])):
                image = relu(norm(conv(image)))
            if source.hw != hw:
                image = interpolate(image.float(), size=hw, mode="bilinear", align_corners=False).to(image.dtype)
            total = self.scale[i] * image if total is None else total + self.scale[i] * image
        assert total is not None
        return replace(features, maps=[FeatureMap(total.flatten(2).transpose(1, 2), hw, "merged")])


def _several(name: str, in_features: int | tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(in_features, tuple) or len(in_features) < 2:
        raise WiringError(f"{name} merges several feature maps and is given one: {in_features}")
    return in_features


def _to_grid(tokens: Tensor, hw: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Returns tokens resized bilinearly to another grid; where it is smaller, with antialiasing."""
    if hw == target:
        return tokens
    image = tokens.transpose(1, 2).unflatten(2, hw).float()
    found = interpolate(image, size=target, mode="bilinear", align_corners=False, antialias=True)
    return found.flatten(2).transpose(1, 2).to(tokens.dtype)
