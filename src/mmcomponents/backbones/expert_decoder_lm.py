"""Decoder whose feed-forward blocks are chosen by token type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from mmcomponents.backbones.base import check_sequence
from mmcomponents.backbones.decoder_lm import DecoderLM
from mmcomponents.batch import Exact, Layout, PackedBatch, TokenType
from mmcomponents.nn.attention import Segments
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.decoder_layer import DecoderAttention, DecoderLayer
from mmcomponents.nn.mlp import SwiGLU
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.rotary import Rotation

_IMAGE = ".image_mlp."


@dataclass(frozen=True)
class Routes:
    """Positions of a pack by the feed-forward block that they go through.

    Attributes:
        text: Indices of the positions of text and of all types but images.
        image: Indices of the positions of images, given or made.
    """

    text: Tensor
    image: Tensor

    @classmethod
    def of(cls, layout: Layout) -> Routes:
        """Returns the routes of a pack, by the types of its tokens."""
        is_image = (layout.token_type == TokenType.IMAGE) | (layout.token_type == TokenType.IMAGE_GEN)
        return cls((~is_image).nonzero()[:, 0], is_image.nonzero()[:, 0])


class ExpertLayer(DecoderLayer):
    """Decoder layer with a second feed-forward block, for positions of images.

    Args:
        attention: Attention of the layer.
        hidden_size: Width, d.
        intermediate_size: Inner width of both feed-forward blocks.
        eps: Epsilon of both norms.
    """

    def __init__(self, attention: DecoderAttention, hidden_size: int, intermediate_size: int, eps: float) -> None:
        super().__init__(attention, hidden_size, intermediate_size, eps)
        self.image_mlp = SwiGLU(hidden_size, intermediate_size)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        segments: Segments,
        rotate: Rotation | None,
        cache: KVCache | None,
        layer: str,
        routes: Routes | None = None,
    ) -> Tensor:
        """Maps `[T, d]` to `[T, d]`, see the base class; `routes` are those of the layout, found once for a stack."""
        routes = routes or Routes.of(layout)
        x = x + self.self_attn(self.input_layernorm(x), segments, rotate, cache, layer)
        h = self.post_attention_layernorm(x)
        text = self.mlp(h[routes.text])
        mixed = torch.zeros_like(h).index_copy(0, routes.text, text.to(h.dtype))
        if len(routes.image) or torch.is_grad_enabled():  # without images the block has a gradient of zero
            mixed = mixed.index_copy(0, routes.image, self.image_mlp(h[routes.image]).to(h.dtype))
        return x + mixed


class ExpertDecoderLM(DecoderLM):
    """`DecoderLM` with two feed-forward blocks in each layer, one of them for images (SynerGen-VL, section 3.1).

    Positions of images, given (`IMAGE`) or made (`IMAGE_GEN`), go through the second block; all others through the
    first one. Attention and norms are shared. The second block begins as a copy of the first one, so that the model
    computes what a `DecoderLM` of the same weights does. While decoding, the type is that of the token that is fed in.
    Source: arXiv 2412.09604; the arguments are those of `DecoderLM`.
    """

    shard_units = (ExpertLayer,)
    layer_kind = ExpertLayer
    starts_from = ("DecoderLM",)

    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]`.

        Raises:
            ValueError: A tensor has another shape, see `check_sequence`.
        """
        check_sequence(self, x, layout, rotary)
        segments, routes = Segments(layout.cu_seqlens, layout.max_seqlen), Routes.of(layout)
        rotate = None if rotary is None else Rotation(rotary)
        for i, layer in enumerate(self.layers):
            x = layer(x, layout, segments, rotate, cache, "" if cache is None else f"decoder.{i}", routes)
        out: Tensor = self.norm(x)
        return out

    def source_name(self, name: str) -> str:
        """Returns the name of the text's block for that of images."""
        return name.replace(_IMAGE, ".mlp.")

    def flops(self, batch: PackedBatch) -> float:
        """Counts the layers with one feed-forward block for each position."""
        unused = sum(linear_weights(cast(ExpertLayer, layer).image_mlp) for layer in self.layers)
        return super().flops(batch) - 2.0 * batch.num_tokens * unused
