"""Exchange of features between two encoders (PIIP, arXiv 2406.04330, section 3.2, and 2501.07783).

Reference code: OpenGVLab/PIIP.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mmcomponents.limits import check_numbers, check_sizes
from mmcomponents.nn.deformable_attention import DeformableAttention, Grid
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.nn.nf4_linear import linear_weights

Kind = Literal["deformable", "dense"]


class CrossAttention(nn.Module):
    """Attention of each place of a map to all places of another one.

    Args:
        width: Width of both maps.
        num_heads: Number of heads.
        ratio: Width of queries, keys and values over that of the maps.
    """

    def __init__(self, width: int, num_heads: int, ratio: float) -> None:
        super().__init__()
        inner = int(width * ratio)
        if inner < 1 or inner % num_heads:
            raise ValueError(f"keys of width {inner} (width {width} x ratio {ratio:g}) have no {num_heads} equal heads")
        self.num_heads, self.width = num_heads, inner
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)

    def forward(self, query: Tensor, query_hw: Grid, maps: list[Tensor], grids: list[Grid]) -> Tensor:
        """See `mmcomponents.nn.deformable_attention.DeformableAttention.forward`; there is one map."""
        (other,) = maps
        tiles, length = query.shape[:2]
        q = self.query(query).unflatten(-1, (self.num_heads, -1))
        k, v = (x.unflatten(-1, (self.num_heads, -1)) for x in self.key_value(other).chunk(2, dim=-1))
        found = nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        out: Tensor = self.out(found.transpose(1, 2).reshape(tiles, length, -1))
        return out

    def flops(self, num_tiles: int, query_hw: Grid, grids: Sequence[Grid]) -> float:
        """Counts the linear maps and the products, two operations per multiply-add."""
        queries, keys = math.prod(query_hw), sum(math.prod(grid) for grid in grids)
        linear = queries * (linear_weights(self.query) + linear_weights(self.out)) + keys * linear_weights(
            self.key_value
        )
        return float(num_tiles) * (2.0 * linear + 4.0 * queries * keys * self.width)


class ConvFFN(nn.Module):
    """Feed-forward block with a depthwise convolution between its maps, which sees the neighbours of a place.

    Args:
        width: Width of the map.
        ratio: Inner width over that of the map.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        inner = max(1, int(width * ratio))
        self.fc1 = nn.Linear(width, inner)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor, hw: Grid) -> Tensor:
        """Maps `[N, h*w, C]` to `[N, h*w, C]`."""
        image = self.fc1(x).transpose(1, 2).unflatten(2, hw)
        out: Tensor = self.fc2(gelu(self.conv(image).flatten(2).transpose(1, 2)))
        return out

    def flops(self, hw: Grid) -> float:
        """Counts the linear maps and the convolution for one tile."""
        return 2.0 * math.prod(hw) * (linear_weights(self) + self.conv.weight.numel())


class Injector(nn.Module):
    """Adds to a map what it finds in another one: `x + gate_a * attention`, then `x + gate_f * feed-forward`.

    Args:
        width: Width of both maps.
        kind: "deformable" or "dense" attention.
        num_heads: Number of heads.
        num_points: Number of places of a head, for deformable attention.
        ratio: Width of the values over that of the map.
        ffn_ratio: Inner width of the feed-forward block over that of the map.
        drop_path: Probability that the feed-forward block is dropped for a tile in training.
        eps: Epsilon of the norms.
    """

    def __init__(
        self,
        width: int,
        kind: Kind,
        num_heads: int,
        num_points: int,
        ratio: float,
        ffn_ratio: float,
        drop_path: float,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        check_sizes(width=width)
        check_numbers(ratio=ratio, ffn_ratio=ffn_ratio, drop_path=drop_path)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.other_norm = nn.LayerNorm(width, eps=eps)
        self.attention: DeformableAttention | CrossAttention
        if kind == "deformable":
            self.attention = DeformableAttention(width, width, 1, num_heads, num_points, ratio)
        else:
            self.attention = CrossAttention(width, num_heads, ratio)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)
        self.ffn = ConvFFN(width, ffn_ratio)
        self.drop_path = DropPath(drop_path)
        self.gate_a = nn.Parameter(torch.empty(width))
        self.gate_f = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor, hw: Grid, other: Tensor, other_hw: Grid) -> Tensor:
        """Adds to a map what it reads of another one, then its feed-forward block.

        Args:
            x: `[N, h*w, C]`.
            hw: Rows and columns of `x`.
            other: `[N, h'*w', C]` map that is read.
            other_hw: Rows and columns of `other`.

        Returns:
            `[N, h*w, C]`.
        """
        found = self.attention(self.norm(x), hw, [self.other_norm(other)], [other_hw])
        x = x + self.gate_a * found
        out: Tensor = x + self.gate_f * self.drop_path(self.ffn(self.ffn_norm(x), hw))
        return out

    def flops(self, hw: Grid, other_hw: Grid) -> float:
        """Counts attention and feed-forward block for one tile."""
        return self.attention.flops(1, hw, [other_hw]) + self.ffn.flops(hw)


class Interaction(nn.Module):
    """Exchange between two maps of different widths and grids, both from what the maps were before it.

    Args:
        one: Width of the first map.
        two: Width of the second map.
        injector: Factory of both injectors, called with the width.
    """

    def __init__(self, one: int, two: int, injector: Callable[[int], Injector]) -> None:
        super().__init__()
        self.to_one = nn.Linear(two, one)
        self.to_two = nn.Linear(one, two)
        self.inject_one = injector(one)
        self.inject_two = injector(two)

    def forward(self, one: Tensor, one_hw: Grid, two: Tensor, two_hw: Grid) -> tuple[Tensor, Tensor]:
        """Exchanges between two maps.

        Args:
            one: `[N, h*w, C]`.
            one_hw: Rows and columns of `one`.
            two: `[N, h'*w', C']`.
            two_hw: Rows and columns of `two`.

        Returns:
            Both maps, `[N, h*w, C]` and `[N, h'*w', C']`.
        """
        for_one, for_two = self.to_one(two), self.to_two(one)
        return self.inject_one(one, one_hw, for_one, two_hw), self.inject_two(two, two_hw, for_two, one_hw)

    def flops(self, one_hw: Grid, two_hw: Grid) -> float:
        """Counts both directions for one tile."""
        linear = math.prod(two_hw) * linear_weights(self.to_one) + math.prod(one_hw) * linear_weights(self.to_two)
        return 2.0 * linear + self.inject_one.flops(one_hw, two_hw) + self.inject_two.flops(two_hw, one_hw)
