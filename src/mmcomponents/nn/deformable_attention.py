"""Multi-scale deformable attention (Zhu et al. 2021, "Deformable DETR", arXiv 2010.04159, section 4.1).

    query ─┬─ offsets ──► places around the reference point, P of each head in each of L maps
           └─ weights ──► softmax over the L*P samples
    maps ──── values ──► bilinear samples at these places, zero outside ──► weighted sum ──► output

Written with `torch.nn.functional.grid_sample`, so that it runs on any device and needs no kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from mmcomponents.limits import check_sizes
from mmcomponents.nn.nf4_linear import linear_weights

Grid = tuple[int, int]


class DeformableAttention(nn.Module):
    """Attention of each query to a few places of several maps, which it chooses itself.

    The initial offsets of a head point in one direction, from 1 to P pixels, and do not depend on the query; the
    initial weights are uniform.

    Args:
        query_width: Width of the queries, Cq.
        value_width: Width of the maps, Cv. None: that of the queries.
        num_levels: Number of maps, L.
        num_heads: Number of heads, M.
        num_points: Number of places of a head in a map, P.
        ratio: Width of the values over that of the queries.

    Raises:
        ValueError: The width of the values is not a multiple of the number of heads.
    """

    def __init__(
        self,
        query_width: int,
        value_width: int | None = None,
        num_levels: int = 1,
        num_heads: int = 16,
        num_points: int = 4,
        ratio: float = 1.0,
    ) -> None:
        super().__init__()
        check_sizes(query_width=query_width, num_levels=num_levels, num_heads=num_heads, num_points=num_points)
        inner = int(query_width * ratio)
        if inner < 1 or inner % num_heads:
            raise ValueError(
                f"values of width {inner} (query_width {query_width} x ratio {ratio:g}) have no {num_heads} equal heads"
            )
        self.num_levels, self.num_heads, self.num_points, self.width = num_levels, num_heads, num_points, inner
        self.offsets = nn.Linear(query_width, num_heads * num_levels * num_points * 2)
        self.weights = nn.Linear(query_width, num_heads * num_levels * num_points)
        self.values = nn.Linear(value_width or query_width, inner)
        self.out = nn.Linear(inner, query_width)

    def forward(self, query: Tensor, query_hw: Grid, maps: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
        """Attends from each place of a grid to the maps, which lie over the same image.

        Args:
            query: `[N, h*w, Cq]`.
            query_hw: Rows and columns of the queries.
            maps: `[N, h_l*w_l, Cv]` for each level.
            grids: Rows and columns of each map.

        Returns:
            `[N, h*w, Cq]`.

        Raises:
            ValueError: There is another number of maps than levels.
        """
        centres = _centres(query_hw, query.device)[None, :, None]
        reach = 1 / torch.tensor(grids, dtype=torch.float32, device=query.device).view(1, 1, -1, 2).flip(-1)
        return self.attend(query, centres, reach, maps, grids)

    def attend(
        self,
        query: Tensor,
        centres: Tensor,
        reach: Tensor,
        maps: Sequence[Tensor],
        grids: Sequence[Grid],
        inside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Attends from places of any kind, such as boxes.

        Args:
            query: `[N, Q, Cq]`.
            centres: fp32 `[N or 1, Q, L or 1, 2]` as (x, y), 0 to 1 within each map.
            reach: fp32 `[N or 1, Q or 1, L, 2]` width and height in the map that an offset of 1 moves a place by.
            maps: `[N, h_l*w_l, Cv]` for each level.
            grids: Rows and columns of each map.
            inside: bool `[N, h_l*w_l]` for each level, False where a map has padding, whose values are zeros. None: no
                padding.

        Returns:
            `[N, Q, Cq]`.

        Raises:
            ValueError: There is another number of maps than levels.
        """
        if len(maps) != self.num_levels or len(grids) != self.num_levels:
            raise ValueError(f"{len(maps)} maps with {len(grids)} grids for {self.num_levels} levels")
        tiles, length = query.shape[:2]
        split = (tiles, length, self.num_heads, self.num_levels, self.num_points)
        # Places need fp32: in bf16, a map of 64 columns has steps of a quarter of a pixel.
        offsets = self.offsets(query).view(*split, 2).float()
        weights = self.weights(query).float().view(*split[:3], -1).softmax(-1).view(split)
        places = centres[:, :, None, :, None] + offsets * reach[:, :, None, :, None]
        total: Tensor | None = None
        for level, (tokens, grid) in enumerate(zip(maps, grids, strict=True)):
            values = self.values(tokens)
            if inside is not None:
                values = values.masked_fill(~inside[level][..., None], 0.0)
            values = values.unflatten(-1, (self.num_heads, -1))
            found = _sampled(values, grid, places[:, :, :, level], weights[:, :, :, level])
            total = found if total is None else total + found
        assert total is not None
        out: Tensor = self.out(total.flatten(-2).to(query.dtype))
        return out

    def flops(self, num_tiles: int, query_hw: Grid, grids: Sequence[Grid]) -> float:
        """Counts the linear maps, two operations per multiply-add, and four corners of each sample."""
        queries, keys = math.prod(query_hw), sum(math.prod(grid) for grid in grids)
        of_queries = sum(linear_weights(m) for m in (self.offsets, self.weights, self.out))
        linear = queries * of_queries + keys * linear_weights(self.values)
        samples = queries * self.num_levels * self.num_points * self.width
        return float(num_tiles) * (2.0 * linear + 2.0 * 5 * samples)


def init_deformable(name: str, value: Tensor, num_heads: int, num_points: int) -> bool:
    """Fills a parameter of `DeformableAttention` as the paper does; returns False for the other linear maps.

    Args:
        name: Name of the parameter, or the end of it.
        value: Parameter of any shape, filled in place.
        num_heads: Number of heads.
        num_points: Number of places of a head in a map.
    """
    piece = ".".join(name.split(".")[-2:])
    if piece == "offsets.bias":
        angles = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
        ring = torch.stack((angles.cos(), angles.sin()), dim=-1)
        ring = ring / ring.abs().amax(-1, keepdim=True)  # on a square, so that the first places are pixels
        steps = torch.arange(1, num_points + 1, dtype=torch.float32)
        levels = value.numel() // (num_heads * num_points * 2)
        bias = ring[:, None, None] * steps[None, None, :, None]
        value.copy_(bias.expand(num_heads, levels, num_points, 2).flatten())
    elif piece in ("offsets.weight", "weights.weight", "weights.bias"):
        value.zero_()
    else:
        return False
    return True


def _centres(hw: Grid, device: torch.device) -> Tensor:
    """Returns the centres of the pixels of a grid, fp32 `[h*w, 2]` as (x, y) between 0 and 1."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n for n in hw)
    return torch.stack((x.repeat(hw[0]), y.repeat_interleave(hw[1])), dim=-1)


def _sampled(values: Tensor, hw: Grid, places: Tensor, weights: Tensor) -> Tensor:
    """Returns the weighted sum of bilinear samples of a map.

    Args:
        values: `[N, h*w, M, D]`.
        hw: Rows and columns.
        places: fp32 `[N, Q, M, P, 2]` as (x, y), 0 to 1 within the map.
        weights: fp32 `[N, Q, M, P]`.

    Returns:
        fp32 `[N, Q, M, D]`.
    """
    tiles, queries, heads, points, _ = places.shape
    image = values.float().permute(0, 2, 3, 1).reshape(tiles * heads, -1, *hw)
    where = (2 * places - 1).transpose(1, 2).reshape(tiles * heads, queries, points, 2)
    found = grid_sample(image, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    share = weights.transpose(1, 2).reshape(tiles * heads, 1, queries, points)
    return (found * share).sum(-1).view(tiles, heads, -1, queries).permute(0, 3, 1, 2)
