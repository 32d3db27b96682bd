"""Maps of an encoder to several levels of one width, for detection."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers.base import Fuser
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.valid_places import MaskedGroupNorm, check_told, halved, without_padding


class ChannelMapper(Fuser):
    """A 1x1 convolution for each map, and 3x3 convolutions of stride 2 for coarser levels, each before a group norm.

    The first coarser level is made of the last map itself, further ones of the level before (Zhu et al. 2021,
    "Deformable DETR", arXiv 2010.04159, appendix A.2). Means and variances leave out padding.

    Args:
        in_features: Width of the maps; a tuple for several.
        width: Width of the levels.
        num_levels: Number of levels.
        num_groups: Number of groups of the norms, which divides the width.

    Raises:
        WiringError: There are more maps than levels.
        ValueError: The width is not a multiple of the number of groups.
    """

    def __init__(
        self, in_features: int | tuple[int, ...], width: int = 256, num_levels: int = 4, num_groups: int = 32
    ) -> None:
        super().__init__()
        check_sizes(width=width, num_groups=num_groups)
        check_sizes(MAX_LAYERS, num_levels=num_levels)
        if width % num_groups:
            raise ValueError(f"the width {width} is not a multiple of num_groups {num_groups}")
        widths = (in_features,) if isinstance(in_features, int) else tuple(in_features)
        if len(widths) > num_levels:
            raise WiringError(f"ChannelMapper has num_levels {num_levels} and is given {len(widths)} maps")
        self.in_features, self.out_features = in_features, (width,) * num_levels
        self.width, self.num_levels, self.num_groups = width, num_levels, num_groups
        extra = num_levels - len(widths)
        self.convs = nn.ModuleList(nn.Conv2d(own, width, 1, bias=False) for own in widths)
        self.extra_convs = nn.ModuleList(
            nn.Conv2d(width if n else widths[-1], width, 3, stride=2, padding=1, bias=False) for n in range(extra)
        )
        self.norms = nn.ModuleList(MaskedGroupNorm(num_groups, width) for _ in range(num_levels))
        self.init_weights()

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the coarsest level for those of the last map."""
        return self.grids([hw])[-1]

    def grids(self, hws: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Returns rows and columns of the levels for those of the maps, of which the last one is enough."""
        found = list(hws)
        for _ in self.extra_convs:
            found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
        return found

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Maps `[N, h*w, C]` to levels `[N, h*w, width]`.

        Raises:
            WiringError: There is another number of maps than the part is built for.
            ValueError: Maps of unequal images do not tell their padding.
        """
        maps = features.maps
        if len(maps) != len(self.convs):
            raise WiringError(f"ChannelMapper is built for {len(self.convs)} maps and is given {len(maps)}")
        check_told("ChannelMapper", features, maps)
        levels = []
        for number in range(self.num_levels):
            if number < len(maps):
                source = maps[number]
                image, valid = _image(source), source.valid_hw
                x = self.convs[number](image)
            else:
                x = self.extra_convs[number - len(maps)](without_padding(image, valid))
                valid = halved(valid)
            x = without_padding(self.norms[number](x, valid), valid)
            if number >= len(maps):
                image = x  # of which the next level is made
            hw = (x.shape[2], x.shape[3])
            levels.append(FeatureMap(x.flatten(2).transpose(1, 2), hw, f"level {number}", valid))
        return replace(features, maps=levels)

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts the convolutions; each map before the last one is taken to have twice its rows and columns."""
        places, total = float(hw[0] * hw[1]), 0.0
        for depth, conv in enumerate(reversed(self.convs)):
            total += places * 4**depth * _weights(conv)
        for (rows, columns), conv in zip(self.grids([hw])[1:], self.extra_convs, strict=True):
            total += rows * columns * _weights(conv)
        return 2.0 * num_tiles * total


def _image(source: FeatureMap) -> Tensor:
    image: Tensor = source.tokens.transpose(1, 2).unflatten(2, source.hw)
    return image


def _weights(conv: nn.Module) -> int:
    return sum(p.numel() for p in conv.parameters())
