"""Q-Former: learned queries read a feature map; Dita's is conditioned on text by FiLM.

queries ─► [ self-attention ─ cross-attention to the map ─ MLP ─ FiLM by the text ] x num_layers ─ norm ─► tokens

Reference code: RoboDita/Dita.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.mergers.base import Merger
from mmcomponents.nn.mlp import MLP


class QFormerAttention(nn.Module):
    """Attention of all queries of a tile to all tokens of the same tile; no bias but that of the last map.

    Args:
        width: Width of the queries, and of the output.
        source_width: Width of the tokens that are read.
        num_heads: Number of heads.
    """

    def __init__(self, width: int, source_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(source_width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Reads the tokens of a map.

        Args:
            x: `[N, Q, width]` queries.
            source: `[N, L, source_width]` tokens that are read.

        Returns:
            `[N, Q, width]`.
        """
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.q(x), *self.kv(source).chunk(2, dim=-1))
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        found: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return found


class QFormerBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention, MLP.

    Args:
        width: Width of the queries.
        source_width: Width of the map.
        num_heads: Number of heads.
        intermediate_size: Inner width of the MLP.
    """

    def __init__(self, width: int, source_width: int, num_heads: int, intermediate_size: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = QFormerAttention(width, width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attn = QFormerAttention(width, source_width, num_heads)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = MLP(width, intermediate_size)

    def forward(self, x: Tensor, source: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the queries after the block.

        Args:
            x: `[N, Q, width]` queries.
            source: `[N, L, source_width]` tokens of the map.
            context: `[N, context_width]` features of the text. This block does not read them.

        Returns:
            `[N, Q, width]`.
        """
        own = self.norm1(x)
        x = x + self.self_attn(own, own)
        x = x + self.cross_attn(self.norm2(x), source)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out


class FiLMBlock(QFormerBlock):
    """Block whose output is scaled and shifted by maps of the text (FiLM, Perez et al. 2018, arXiv 1709.07871).

    Args:
        width: See `QFormerBlock`.
        source_width: See `QFormerBlock`.
        num_heads: See `QFormerBlock`.
        intermediate_size: See `QFormerBlock`.
        context_width: Width of the text's features.
    """

    def __init__(
        self, width: int, source_width: int, num_heads: int, intermediate_size: int, context_width: int
    ) -> None:
        super().__init__(width, source_width, num_heads, intermediate_size)
        self.film_scale = nn.Linear(context_width, width)
        self.film_shift = nn.Linear(context_width, width)

    def forward(self, x: Tensor, source: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the queries after the block and FiLM by the text.

        Args:
            x: `[N, Q, width]` queries.
            source: `[N, L, source_width]` tokens of the map.
            context: `[N, context_width]` features of the text, which have to be given.

        Returns:
            `[N, Q, width]`.
        """
        assert context is not None
        x = super().forward(x, source)
        context = context.to(x.dtype)[:, None]
        out: Tensor = (1 + self.film_scale(context)) * x + self.film_shift(context)
        return out


class QFormer(Merger):
    """Reads a map with a fixed number of learned queries, tile by tile (BLIP-2, arXiv 2301.12597, section 3.1).

    Blocks are those of Dita's released code (`vision_tokenizers/qformer.py`), in which the MLP follows both attentions.

    Args:
        in_features: Width of the map.
        width: Width of the queries and of the output tokens.
        num_queries: Number of output tokens of a tile.
        num_layers: Number of blocks.
        num_heads: Number of heads.
        intermediate_size: Inner width of the MLPs; None: four times the width.

    Raises:
        ValueError: The width is no multiple of the number of heads.
        WiringError: There are several maps.
    """

    shard_units: tuple[type[nn.Module], ...] = (QFormerBlock,)

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        width: int = 768,
        num_queries: int = 32,
        num_layers: int = 4,
        num_heads: int = 12,
        intermediate_size: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(in_features, int):
            raise WiringError(
                f"{type(self).__name__} takes one feature map and is given {len(in_features)}: {in_features}"
            )
        intermediate_size = 4 * width if intermediate_size is None else intermediate_size
        check_sizes(width=width, num_queries=num_queries, num_heads=num_heads, intermediate_size=intermediate_size)
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        self.in_features, self.out_features, self.width = in_features, width, width
        self.num_queries, self.num_layers, self.num_heads = num_queries, num_layers, num_heads
        self.intermediate_size = intermediate_size
        self.queries = nn.Parameter(torch.empty(num_queries, width))
        self.blocks = nn.ModuleList(self._block() for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.init_weights()

    def _block(self) -> QFormerBlock:
        return QFormerBlock(self.width, _map_width(self), self.num_heads, self.intermediate_size)

    def num_tokens(self, hw: tuple[int, int]) -> int:
        """Returns the number of queries, for a map of any size."""
        return self.num_queries

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        """Reads the primary map, `[N, h*w, C]` to `[N, num_queries, width]`."""
        source, context = features.primary.tokens, self._context(features)
        x = self.queries.to(source.dtype).expand(source.shape[0], -1, -1)
        for block in self.blocks:
            x = block(x, source, context)
        return replace(features, maps=[FeatureMap(self.norm(x), (1, self.num_queries), "qformer")])

    def _context(self, features: VisualFeatures) -> Tensor | None:
        return None

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts the matrices over queries and map, and both attentions."""
        places, queries, width = hw[0] * hw[1], self.num_queries, self.width
        maps = queries * (6 * width * width + 2 * width * self.intermediate_size)
        maps += places * 2 * width * _map_width(self)
        attentions = 2 * queries * (queries + places) * width
        return 2.0 * num_tiles * self.num_layers * (maps + attentions)

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Draws the queries with a variance of 1."""
        if name == "queries":
            nn.init.normal_(value, generator=generator)
        else:
            super().init_parameter(name, value, generator)


class FiLMQFormer(QFormer):
    """Q-Former of Dita (arXiv 2503.19757, section 3.2): each block is conditioned on the mean features of the text.

    FiLM starts at the identity: a new part reads images as `QFormer` does, whatever the text. Tiles without a text have
    features of zero.

    Args:
        in_features: See `QFormer`.
        context_width: Width of the text's features, which `Embedder.context_width` has.
        width: See `QFormer`.
        num_queries: See `QFormer`.
        num_layers: See `QFormer`.
        num_heads: See `QFormer`.
        intermediate_size: See `QFormer`.
    """

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        context_width: int = 768,
        width: int = 768,
        num_queries: int = 32,
        num_layers: int = 4,
        num_heads: int = 12,
        intermediate_size: int | None = None,
    ) -> None:
        check_sizes(context_width=context_width)
        self._context_width = context_width
        super().__init__(in_features, width, num_queries, num_layers, num_heads, intermediate_size)
        self.context_width = context_width

    def _block(self) -> QFormerBlock:
        return FiLMBlock(self.width, _map_width(self), self.num_heads, self.intermediate_size, self._context_width)

    def check(self, model: Composition) -> None:
        """Compares the width of the text's features with that of the embedder.

        Raises:
            WiringError: They differ, or the embedder gives none.
        """
        given = getattr(model.embedder, "context_width", None)
        if given != self.context_width:
            who = type(model.embedder).__name__ if model.embedder is not None else "an empty embedder slot"
            raise WiringError(
                f"{type(self).__name__} takes text features of width {self.context_width} and {who} gives"
                f" {'none' if given is None else given}"
            )

    def _context(self, features: VisualFeatures) -> Tensor:
        source, context = features.primary.tokens, features.context
        if context is None:  # tiles alone, without a pack
            return source.new_zeros(source.shape[0], self.context_width)
        if context.shape[-1] != self.context_width:
            raise WiringError(
                f"{type(self).__name__} takes text features of width {self.context_width}, got {context.shape[-1]}"
            )
        return context

    def map_flops(self, num_tiles: int, hw: tuple[int, int]) -> float:
        """Counts both maps of the text in addition."""
        film = 2 * self.context_width * self.width
        return super().map_flops(num_tiles, hw) + 2.0 * num_tiles * self.num_layers * film

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills the maps of the text with zeros."""
        if ".film_" in name:
            value.zero_()
        else:
            super().init_parameter(name, value, generator)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """See `init_parameter`."""
        return None if ".film_" in name else super().init_std(name, shape)


def _map_width(merger: QFormer) -> int:
    """Returns the width of the merger's one map."""
    assert isinstance(merger.in_features, int)
    return merger.in_features
