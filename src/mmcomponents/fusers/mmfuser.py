"""MMFuser: several levels of an encoder, read by the deepest one (arXiv 2410.11829).

Reference code: yuecao0119/MMFuser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.fusers.base import Fuser
from mmcomponents.limits import check_sizes
from mmcomponents.nn.deformable_attention import DeformableAttention, init_deformable


class MMFuser(Fuser):
    """Adds to the deepest of several maps what it finds in the others: `q + gamma1 * a`.

    `a` is deformable attention of the deepest map to the other ones, plus `gamma2` times deformable attention of that
    to itself. Both gates are vectors of zeros at the start, at which the fuser returns the deepest map unchanged.

    Args:
        in_features: Widths of the maps, all equal, from shallow to deep; the last one has the queries.
        num_levels: Number of the maps besides the last one, to be checked. None: any number.
        num_heads: Number of heads, M.
        num_points: Number of places that a head looks at in a map, P.
        eps: Epsilon of the norms.

    Raises:
        WiringError: There is one map only, another number of maps, or maps of unequal widths.
    """

    shard_units = (DeformableAttention,)

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        num_levels: int | None = None,
        num_heads: int = 16,
        num_points: int = 4,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        widths = (in_features,) if isinstance(in_features, int) else tuple(in_features)
        levels = len(widths) - 1
        if num_levels is not None:
            check_sizes(num_levels=num_levels)
        if levels < 1 or levels != (num_levels or levels):
            wanted = "at least two maps" if num_levels is None else f"{num_levels + 1} maps, num_levels and the query,"
            raise WiringError(
                f"MMFuser takes {wanted} and is given {len(widths)}: set the levels of the encoder, such as"
                " [3, 8, 13, 18, 24]"
            )
        if len(set(widths)) > 1:
            raise WiringError(f"MMFuser takes maps of one width and is given {widths}")
        self.in_features, self.num_maps = widths, len(widths)
        self.out_features = width = widths[0]
        self.num_heads, self.num_points = num_heads, num_points
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.level_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attention = DeformableAttention(width, width, levels, num_heads, num_points)
        self.inner_norm = nn.LayerNorm(width, eps=eps)
        self.self_attention = DeformableAttention(width, width, 1, num_heads, num_points)
        self.gamma1 = nn.Parameter(torch.empty(width))
        self.gamma2 = nn.Parameter(torch.empty(width))
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills the gates with zeros, and places and weights of the attention as deformable attention does."""
        if name.startswith("gamma"):
            value.zero_()
        elif not init_deformable(name, value, self.num_heads, self.num_points):
            super().init_parameter(name, value, generator)

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Fuses maps `[N, h*w, C]` of any grids to one on the grid of the last.

        Raises:
            WiringError: There is another number of maps.
        """
        maps = features.maps
        if len(maps) != self.num_maps:
            raise WiringError(f"MMFuser is built for {self.num_maps} maps and is given {len(maps)}")
        query = maps[-1]
        levels = [self.level_norm(level.tokens) for level in maps[:-1]]
        found = self.cross_attention(self.query_norm(query.tokens), query.hw, levels, [m.hw for m in maps[:-1]])
        again = self.inner_norm(found)
        found = found + self.gamma2 * self.self_attention(again, query.hw, [again], [query.hw])
        return replace(features, maps=[FeatureMap(query.tokens + self.gamma1 * found, query.hw, "mmfuser")])

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts both attentions, with all maps on the grid of the last."""
        levels: Sequence[tuple[int, int]] = [hw] * (self.num_maps - 1)
        cross = self.cross_attention.flops(num_tiles, hw, levels)
        return cross + self.self_attention.flops(num_tiles, hw, [hw])
