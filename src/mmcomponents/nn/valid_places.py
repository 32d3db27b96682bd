"""Places of feature maps that are not padding, for tiles of unequal images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm

from mmcomponents.batch import FeatureMap, VisualFeatures

Grid = tuple[int, int]


def inside(valid_hw: Tensor, hw: Grid) -> Tensor:
    """Returns which places of a grid are not padding, bool `[N, h, w]`.

    Args:
        valid_hw: `[N, 2]` rows and columns that are not padding.
        hw: Rows and columns of the grid.
    """
    rows, columns = (torch.arange(n, device=valid_hw.device) < valid_hw[:, i, None] for i, n in enumerate(hw))
    return rows[:, :, None] & columns[:, None, :]


def halved(valid_hw: Tensor | None) -> Tensor | None:
    """Returns valid rows and columns `[N, 2]` after a convolution of stride 2 that keeps a last odd row, `[N, 2]`."""
    return None if valid_hw is None else (valid_hw + 1) // 2


def without_padding(image: Tensor, valid_hw: Tensor | None) -> Tensor:
    """Returns maps with zeros in their padding, as a convolution sees outside of an image.

    Args:
        image: `[N, C, h, w]`.
        valid_hw: `[N, 2]` int64 rows and columns that are not padding. None: there is none.

    Returns:
        `[N, C, h, w]`.
    """
    if valid_hw is None:
        return image
    return image.masked_fill(~inside(valid_hw, (image.shape[-2], image.shape[-1]))[:, None], 0.0)


def check_told(name: str, features: VisualFeatures, maps: Sequence[FeatureMap]) -> None:
    """Checks that maps of unequal images tell their padding.

    Raises:
        ValueError: A map does not.
    """
    silent = [m for m in maps if m.valid_hw is None]
    if features.valid_hw is not None and silent:
        raise ValueError(
            f"{name} is given {features.valid_hw.shape[0]} tiles of unequal images, and {len(silent)} of {len(maps)}"
            " maps do not tell which of their places are padding: use an encoder that does, such as ResNet, or tiles of"
            " one size"
        )


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalization whose mean and variance leave out padding, so that they are those of the image alone."""

    def forward(self, image: Tensor, valid_hw: Tensor | None = None) -> Tensor:
        """Normalizes maps; what comes out in the padding has no meaning.

        Args:
            image: `[N, C, h, w]`.
            valid_hw: `[N, 2]` int64 rows and columns that are not padding. None: there is none.

        Returns:
            `[N, C, h, w]`.
        """
        if valid_hw is None:
            return group_norm(image, self.num_groups, self.weight, self.bias, self.eps)
        keep = inside(valid_hw, (image.shape[-2], image.shape[-1]))[:, None, None]
        x = image.unflatten(1, (self.num_groups, -1)).to(torch.promote_types(image.dtype, torch.float32))
        count = valid_hw.prod(1).view(-1, 1, 1, 1, 1) * x.shape[2]
        mean = x.masked_fill(~keep, 0.0).sum((2, 3, 4), keepdim=True) / count
        variance = (x - mean).square().masked_fill(~keep, 0.0).sum((2, 3, 4), keepdim=True) / count
        x = ((x - mean) * (variance + self.eps).rsqrt()).flatten(1, 2).to(image.dtype)
        out: Tensor = x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out


def centres(level: FeatureMap) -> Tensor:
    """Returns the centres of the places of a level as shares of the image, fp32 `[N or 1, h*w, 2]` as (x, y)."""
    device = level.tokens.device
    y, x = (torch.arange(n, dtype=torch.float32, device=device) + 0.5 for n in level.hw)
    places = torch.stack((x.repeat(level.hw[0]), y.repeat_interleave(level.hw[1])), dim=-1)[None]
    if level.valid_hw is not None:
        return places / level.valid_hw.flip(-1)[:, None]
    return places / torch.tensor([level.hw[1], level.hw[0]], dtype=torch.float32, device=device)


def valid_share(level: FeatureMap) -> Tensor:
    """Returns width and height of the image as shares of the map, fp32 `[N or 1, 2]`."""
    if level.valid_hw is None:
        return torch.ones(1, 2, device=level.tokens.device)
    size = torch.tensor([level.hw[1], level.hw[0]], dtype=torch.float32, device=level.tokens.device)
    return level.valid_hw.flip(-1) / size
