"""Layers of the decoder of detection transformers, and several of them in parallel (MI-DETR, arXiv 2503.01463).

Reference code: CQU-ADHRI-Lab/MI-DETR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from mmcomponents.nn.deformable_attention import DeformableAttention, Grid
from mmcomponents.nn.nf4_linear import linear_weights


@dataclass(frozen=True)
class Memory:
    """Levels that queries attend to.

    Attributes:
        maps: `[N, h*w, C]` of each level.
        grids: Rows and columns of each level.
        share: fp32 `[N or 1, L, 2]` width and height of the image as shares of each level; less than 1 with padding.
        inside: bool `[N, h*w]` of each level, False in the padding. None: no padding.
    """

    maps: Sequence[Tensor]
    grids: Sequence[Grid]
    share: Tensor
    inside: Sequence[Tensor] | None


class SelfAttention(nn.Module):
    """Attention of queries to each other; positions are added to queries and keys, not to values.

    Args:
        width: Width of the queries.
        num_heads: Number of heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key = nn.Linear(width, 2 * width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, positions: Tensor, sees: Tensor | None) -> Tensor:
        """Returns what each query gets from the others.

        Args:
            x: `[N, Q, C]` queries.
            positions: `[N, Q, C]` embeddings of their boxes.
            sees: bool `[N, Q, Q]`, whether a query sees another one. None: all.

        Returns:
            `[N, Q, C]`.
        """
        q, k = self.query_key(x + positions).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, self.value(x)))
        mask = None if sees is None else sees[:, None]
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


class QueryLayer(nn.Module):
    """Self-attention, deformable attention from boxes to the levels, and a feed-forward block, each before its norm.

    Args:
        width: Width of queries and levels.
        num_levels: Number of levels.
        num_heads: Number of heads.
        num_points: Number of places that a head looks at in a level.
        intermediate_size: Inner width of the feed-forward block.
        has_self_attention: False for a layer that is given what its queries get from each other.
    """

    def __init__(
        self,
        width: int,
        num_levels: int,
        num_heads: int,
        num_points: int,
        intermediate_size: int,
        has_self_attention: bool = True,
    ) -> None:
        super().__init__()
        self.num_points = num_points
        self.self_attention = SelfAttention(width, num_heads) if has_self_attention else None
        self.norm1 = nn.LayerNorm(width) if has_self_attention else None
        self.cross_attention = DeformableAttention(width, width, num_levels, num_heads, num_points)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, boxes: Tensor, memory: Memory, sees: Tensor | None) -> Tensor:
        """Returns the queries after the layer.

        Args:
            x: `[N, Q, C]` queries.
            positions: `[N, Q, C]` embeddings of the boxes.
            boxes: fp32 `[N, Q, 4]` centre and size in shares of the image.
            memory: The levels.
            sees: bool `[N, Q, Q]`, whether a query sees another one. None: all.

        Returns:
            `[N, Q, C]`.
        """
        if self.self_attention is not None and self.norm1 is not None:
            x = self.norm1(x + self.self_attention(x, positions, sees))
        return self.read(x, positions, boxes, memory)

    def read(self, x: Tensor, positions: Tensor, boxes: Tensor, memory: Memory) -> Tensor:
        """Returns the queries after deformable attention and feed-forward block.

        Args:
            x: `[N, Q, C]` queries.
            positions: `[N, Q, C]` embeddings of the boxes.
            boxes: fp32 `[N, Q, 4]` centre and size in shares of the image.
            memory: The levels.

        Returns:
            `[N, Q, C]`.
        """
        centres = boxes[:, :, None, :2] * memory.share[:, None]
        reach = boxes[:, :, None, 2:] * memory.share[:, None] * (0.5 / self.num_points)
        found = self.cross_attention.attend(x + positions, centres, reach, memory.maps, memory.grids, memory.inside)
        x = self.norm2(x + found)
        out: Tensor = self.norm3(x + self.fc2(relu(self.fc1(x))))
        return out


class Inquiries(nn.Module):
    """Several layers that read the same memory for the same queries in parallel, with weights of their own.

    Args:
        count: Number of layers, M.
        width: See `QueryLayer`.
        num_levels: See `QueryLayer`.
        num_heads: See `QueryLayer`.
        num_points: See `QueryLayer`.
        intermediate_size: See `QueryLayer`.
    """

    def __init__(
        self, count: int, width: int, num_levels: int, num_heads: int, num_points: int, intermediate_size: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            QueryLayer(width, num_levels, num_heads, num_points, intermediate_size) for _ in range(count)
        )

    def forward(self, x: Tensor, positions: Tensor, boxes: Tensor, memory: Memory, sees: Tensor | None) -> Tensor:
        """Returns the queries of all layers side by side.

        Args:
            x: `[N, Q, C]` queries.
            positions: `[N, Q, C]` embeddings of the boxes.
            boxes: fp32 `[N, Q, 4]` centre and size in shares of the image.
            memory: The levels.
            sees: bool `[N, Q, Q]`, whether a query sees another one. None: all.

        Returns:
            `[N, Q, M * C]` for M layers.
        """
        return torch.cat([layer(x, positions, boxes, memory, sees) for layer in self.layers], dim=-1)

    def query_weights(self) -> int:
        """Returns the number of weights that each query is multiplied with."""
        values = [m.values for m in self.modules() if isinstance(m, DeformableAttention)]
        return linear_weights(self) - sum(linear_weights(m) for m in values)


class LiteInquiries(Inquiries):
    """Parallel layers that share one self-attention, which is computed once (Lite-MI).

    Args:
        count: See `Inquiries`.
        width: See `QueryLayer`.
        num_levels: See `QueryLayer`.
        num_heads: See `QueryLayer`.
        num_points: See `QueryLayer`.
        intermediate_size: See `QueryLayer`.
    """

    def __init__(
        self, count: int, width: int, num_levels: int, num_heads: int, num_points: int, intermediate_size: int
    ) -> None:
        super().__init__(0, width, num_levels, num_heads, num_points, intermediate_size)
        self.self_attention = SelfAttention(width, num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            QueryLayer(width, num_levels, num_heads, num_points, intermediate_size, has_self_attention=False)
            for _ in range(count)
        )

    def forward(self, x: Tensor, positions: Tensor, boxes: Tensor, memory: Memory, sees: Tensor | None) -> Tensor:
        """See the base class."""
        x = self.norm1(x + self.self_attention(x, positions, sees))
        return super().forward(x, positions, boxes, memory, sees)
