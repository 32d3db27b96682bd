"""Deformable encoder of detection transformers (Zhu et al. 2021, "Deformable DETR", arXiv 2010.04159, section 4).

maps ── ChannelMapper ──► levels ── layer 1 ── … ── layer L ──► levels
                                        │               │
                                        E_1             E_L      (`layers`, which UFIEncoder unifies)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers.base import Fuser
from mmcomponents.fusers.channel_mapper import ChannelMapper
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.deformable_attention import DeformableAttention, Grid, init_deformable
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.sine_positions import grid_embedding
from mmcomponents.nn.valid_places import centres, check_told, inside, valid_share

Width = int | tuple[int, ...]


class DeformableEncoderLayer(nn.Module):
    """Deformable attention of each place to all levels, then a feed-forward block, each before its norm.

    Args:
        width: Width of the levels.
        num_levels: Number of levels.
        num_heads: Number of heads.
        num_points: Number of places that a head looks at in a level.
        intermediate_size: Inner width of the feed-forward block.
    """

    def __init__(self, width: int, num_levels: int, num_heads: int, num_points: int, intermediate_size: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, width, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        places: Tensor,
        reach: Tensor,
        grids: Sequence[Grid],
        keep: Tensor | None,
    ) -> Tensor:
        """Returns the tokens of all levels after the layer.

        Args:
            tokens: `[N, S, C]`, levels one after the other.
            positions: `[N, S, C]` embeddings of the places, part of the queries.
            places: fp32 `[N or 1, S, L, 2]` place of each token in each level.
            reach: fp32 `[1, 1, L, 2]` size of a place of each level.
            grids: Rows and columns of each level.
            keep: bool `[N, S]`, False in the padding. None: no padding.

        Returns:
            `[N, S, C]`.
        """
        sizes = [math.prod(grid) for grid in grids]
        maps = tokens.split(sizes, dim=1)
        masks = None if keep is None else keep.split(sizes, dim=1)
        found = self.attention.attend(tokens + positions, places, reach, maps, grids, masks)
        tokens = self.norm1(tokens + found)
        out: Tensor = self.norm2(tokens + self.fc2(relu(self.fc1(tokens))))
        return out


class DeformableEncoder(Fuser):
    """Layers of deformable attention over several levels, of which the last one's output is returned.

    Args:
        in_features: Width of the maps; a tuple for several.
        neck: Factory of the part that makes levels of one width of them, called with `in_features`.
        num_layers: Number of layers.
        num_heads: Number of heads.
        num_points: Number of places that a head looks at in a level.
        intermediate_size: Inner width of the feed-forward blocks.

    Raises:
        WiringError: The neck gives levels of unequal widths, or one level as a number.
    """

    shard_units = (DeformableEncoderLayer,)

    def __init__(
        self,
        in_features: Width,
        neck: Callable[[Width], Fuser] = ChannelMapper,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        intermediate_size: int = 2048,
    ) -> None:
        super().__init__()
        check_sizes(num_heads=num_heads, num_points=num_points, intermediate_size=intermediate_size)
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        self.neck = neck(in_features)
        widths = self.neck.out_features
        if isinstance(widths, int) or len({*widths}) > 1:
            raise WiringError(
                f"{type(self).__name__} takes levels of one width, as a tuple, and {type(self.neck).__name__} gives"
                f" {widths}"
            )
        self.in_features, self.out_features = in_features, widths
        self.width, self.num_levels, self.num_layers = widths[0], len(widths), num_layers
        if self.width % 4:
            raise ValueError(f"the width {self.width} must be a multiple of 4, for sines of two coordinates")
        self.num_heads, self.num_points = num_heads, num_points
        self.level_embedding = nn.Parameter(torch.empty(self.num_levels, self.width))
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(self.width, self.num_levels, num_heads, num_points, intermediate_size)
            for _ in range(num_layers)
        )
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Draws level embeddings with the deviation 1, and places and weights as deformable attention does."""
        if name == "level_embedding":
            nn.init.normal_(value, generator=generator)
        elif not name.startswith("encoder.") or not init_deformable(name, value, self.num_heads, self.num_points):
            super().init_parameter(name, value, generator)

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the coarsest level."""
        return self.neck.grid(hw)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Encodes maps `[N, h*w, C]` as levels of one width.

        Raises:
            ValueError: Maps of unequal images do not tell their padding.
        """
        return replace(features, maps=self.layers(features)[-1])

    def layers(self, features: VisualFeatures) -> list[list[FeatureMap]]:
        """Returns the levels after each layer, those of the last layer last."""
        levels = self.neck(features).maps
        check_told(type(self).__name__, features, levels)
        grids = [level.hw for level in levels]
        tokens = torch.cat([level.tokens for level in levels], dim=1)
        keep = _kept(levels)
        own = [centres(level) for level in levels]  # as shares of the image
        shares = torch.cat(own, dim=1)
        scale = torch.stack([valid_share(level) for level in levels], dim=1)  # [N or 1, L, 2], of the map
        places = shares[:, :, None] * scale[:, None]
        reach = 1 / torch.tensor(grids, dtype=torch.float32, device=tokens.device).view(1, 1, -1, 2).flip(-1)
        positions = torch.cat(
            [
                grid_embedding(c, self.width).to(tokens.dtype) + e
                for c, e in zip(own, self.level_embedding, strict=True)
            ],
            dim=1,
        )
        found = []
        for layer in self.encoder:
            tokens = layer(tokens, positions, places, reach, grids, keep)
            if keep is not None:
                tokens = tokens.masked_fill(~keep[..., None], 0.0)
            pieces = tokens.split([math.prod(grid) for grid in grids], dim=1)
            found.append([replace(level, tokens=piece) for level, piece in zip(levels, pieces, strict=True)])
        return found

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts neck and layers; each map before the last one is taken to have twice its rows and columns."""
        grids = self._grids(hw)
        total = self.neck.map_flops(num_tiles, hw)
        places = sum(math.prod(grid) for grid in grids)
        for layer in self.encoder:
            assert isinstance(layer, DeformableEncoderLayer)
            total += layer.attention.flops(num_tiles, (1, places), grids)
            total += 2.0 * num_tiles * places * (linear_weights(layer.fc1) + linear_weights(layer.fc2))
        return total

    def level_grids(self, grids: Sequence[Grid]) -> list[Grid]:
        """Returns the grids of the levels for those of the maps."""
        found = list(grids)
        while len(found) < self.num_levels:
            found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
        return found

    def _grids(self, hw: Grid) -> list[Grid]:
        """Returns the grids of the levels for that of the primary map, of maps with twice the rows of the next one."""
        maps = 1 if isinstance(self.in_features, int) else len(self.in_features)
        return self.level_grids([(hw[0] * 2 ** (maps - 1 - n), hw[1] * 2 ** (maps - 1 - n)) for n in range(maps)])


def _kept(levels: Sequence[FeatureMap]) -> Tensor | None:
    """Returns which tokens of all levels are not padding, bool `[N, S]`; None if all are."""
    masks = [inside(level.valid_hw, level.hw).flatten(1) for level in levels if level.valid_hw is not None]
    return torch.cat(masks, dim=1) if masks else None
