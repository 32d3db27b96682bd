"""Decoder of Qwen2.5, Qwen3, Llama and InternLM3.

Source: Llama (arXiv 2302.13971, section 2.2), Qwen2.5 (arXiv 2412.15115, section 2), Qwen3 (arXiv 2505.09388, section
2). Reference code: the models of the same names in huggingface/transformers.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone, check_sequence
from mmcomponents.batch import Exact, Layout, PackedBatch
from mmcomponents.limits import MAX_LAYERS, check_sizes
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.decoder_layer import DecoderLayer, decoder_layers, layers_flops, run_layers
from mmcomponents.nn.norm import RMSNorm


class DecoderLM(Backbone):
    """Decoder stack with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

    The arguments select Qwen2.5 (qkv_bias), Qwen3 (qk_norm, its own head_dim), Llama or InternLM3 (neither).

    Args:
        hidden_size: Width, d.
        num_layers: Number of layers.
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads; None: as many as query heads.
        intermediate_size: Inner width of the feed-forward blocks.
        head_dim: Width of a head; None: hidden_size / num_heads.
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over each head of queries and keys.
        eps: Epsilon of all norms.
        attention: Attention backend.

    Raises:
        ValueError: A size is out of range, or is not a multiple of another.
    """

    shard_units: tuple[type[nn.Module], ...] = (DecoderLayer,)
    layer_kind: ClassVar[type[DecoderLayer]] = DecoderLayer
    """Class of the layers."""

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        eps: float = 1e-6,
        attention: Backend = "auto",
    ) -> None:
        super().__init__()
        self.num_layers, self.num_heads, self.intermediate_size = num_layers, num_heads, intermediate_size
        self.num_kv_heads = num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        self.layers = decoder_layers(
            num_layers,
            hidden_size,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size,
            qkv_bias,
            qk_norm,
            eps,
            attention,
            self.layer_kind,
        )
        self.hidden_size = hidden_size
        self.head_dim = hidden_size // num_heads if head_dim is None else head_dim
        self.norm = RMSNorm(hidden_size, eps=eps)
        self.init_weights()

    def forward(self, x: Tensor, layout: Layout, rotary: Exact | None = None, cache: KVCache | None = None) -> Tensor:
        """Maps `[T, d]` to `[T, d]`.

        Raises:
            ValueError: A tensor has another shape, see `check_sequence`.
        """
        check_sequence(self, x, layout, rotary)
        out: Tensor = self.norm(run_layers(self.layers, x, layout, rotary, cache))
        return out

    def flops(self, batch: PackedBatch) -> float:
        """Counts the layers over all positions, see `layers_flops`."""
        return layers_flops(self.layers, batch.layout.cu_seqlens)
