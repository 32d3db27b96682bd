"""Decoder layers, of which language models and embedders with layers of their own are made."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mmcomponents.batch import Exact, Layout
from mmcomponents.limits import check_choices, check_numbers, check_sizes
from mmcomponents.nn.attention import Segments, attention, cached_attention
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.linear import Linear
from mmcomponents.nn.mlp import SwiGLU
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.norm import RMSNorm
from mmcomponents.nn.rotary import Rotation


class DecoderAttention(nn.Module):
    """Causal grouped-query attention within segments (GQA, arXiv 2305.13245).

    Args:
        hidden_size: Width, d.
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads.
        head_dim: Width of a head.
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over each head of queries and keys, before the rotation.
        eps: Epsilon of that norm.
        backend: Attention backend.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        qkv_bias: bool,
        qk_norm: bool,
        eps: float,
        backend: Backend,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.backend: Backend = backend
        self.q_proj = Linear(hidden_size, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = Linear(num_heads * head_dim, hidden_size, bias=False)
        self.q_norm = RMSNorm(head_dim, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps=eps) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, segments: Segments, rotate: Rotation | None, cache: KVCache | None, layer: str
    ) -> Tensor:
        """Maps `[T, d]` to `[T, d]`."""
        heads = (-1, self.head_dim)
        q = self.q_norm(self.q_proj(x).unflatten(-1, heads))
        k = self.k_norm(self.k_proj(x).unflatten(-1, heads))
        v = self.v_proj(x).unflatten(-1, heads)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        if cache is None:
            out = attention(q, k, v, segments, causal=True, backend=self.backend)
        else:
            blocks = cache.extend(layer, k, v)
            if cache.is_empty:  # a prefill attends only to itself
                out = attention(q, k, v, segments, causal=True, backend=self.backend)
            else:
                out = cached_attention(q, *blocks, segments, cache.next_lengths)
        mixed: Tensor = self.o_proj(out.flatten(1))
        return mixed


class DecoderLayer(nn.Module):
    """Pre-norm layer: attention, then a gated feed-forward block.

    Args:
        attention: Attention of the layer.
        hidden_size: Width, d.
        intermediate_size: Inner width of the feed-forward block.
        eps: Epsilon of both norms.
    """

    def __init__(self, attention: DecoderAttention, hidden_size: int, intermediate_size: int, eps: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(hidden_size, eps=eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(hidden_size, eps=eps)
        self.mlp = SwiGLU(hidden_size, intermediate_size)

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        segments: Segments,
        rotate: Rotation | None,
        cache: KVCache | None,
        layer: str,
    ) -> Tensor:
        """Adds the outputs of attention and of the feed-forward block.

        Args:
            x: `[T, d]` positions of the pack.
            layout: Structure of the pack. This layer does not read it; one that routes by token type does.
            segments: Boundaries of the pack, built once for all layers.
            rotate: Rotation of queries and keys; None: without positions.
            cache: Keys and values of earlier calls.
            layer: Name of the layer in the cache.

        Returns:
            `[T, d]`.
        """
        x = x + self.self_attn(self.input_layernorm(x), segments, rotate, cache, layer)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def decoder_layers(
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int | None,
    intermediate_size: int,
    qkv_bias: bool,
    qk_norm: bool,
    eps: float,
    backend: Backend,
    kind: type[DecoderLayer] = DecoderLayer,
) -> nn.ModuleList:
    """Returns layers of one size and class; `head_dim` None: hidden_size / num_heads.

    Raises:
        ValueError: A size is out of range, or is not a multiple of another.
    """
    check_sizes(hidden_size=hidden_size, intermediate_size=intermediate_size)
    check_sizes(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=1 if head_dim is None else head_dim)
    check_numbers(eps=eps)
    check_choices(attention=(backend, Backend))
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} is not a multiple of num_kv_heads {num_kv_heads}")
    if head_dim is None and hidden_size % num_heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}: give head_dim")
    width = hidden_size // num_heads if head_dim is None else head_dim
    return nn.ModuleList(
        kind(
            DecoderAttention(hidden_size, num_heads, num_kv_heads, width, qkv_bias, qk_norm, eps, backend=backend),
            hidden_size,
            intermediate_size,
            eps,
        )
        for _ in range(num_layers)
    )


def run_layers(layers: nn.ModuleList, x: Tensor, layout: Layout, rotary: Exact | None, cache: KVCache | None) -> Tensor:
    """Maps the positions of a pack, `[T, d]` to `[T, d]`; a cache has the layers as `decoder.0`, `decoder.1`, ...."""
    segments = Segments(layout.cu_seqlens, layout.max_seqlen)
    rotate = None if rotary is None else Rotation(rotary)
    for i, layer in enumerate(layers):
        x = layer(x, layout, segments, rotate, cache, "" if cache is None else f"decoder.{i}")
    return x


def layers_flops(layers: nn.ModuleList, cu_seqlens: Tensor) -> float:
    """Counts matrices over all positions, and causal attention as half the square of each segment's length.

    Kernels that compute the full square and mask half of it do more operations than counted.

    Args:
        layers: Layers of the class `DecoderLayer`.
        cu_seqlens: `[S+1]` boundaries of the segments.
    """
    squares = float(cu_seqlens.diff().double().square().sum())
    total = 0.0
    for layer in layers:
        heads_width = cast(DecoderLayer, layer).self_attn.o_proj.in_features
        total += 2.0 * int(cu_seqlens[-1]) * linear_weights(layer) + 2.0 * squares * heads_width
    return total
