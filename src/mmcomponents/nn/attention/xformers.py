"""Packed attention with xformers' block-diagonal masks (CUDA)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmcomponents.nn.attention.segments import Segments


def xformers_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
    """See `mmcomponents.nn.attention.attention`."""
    # Imported here: the package logs warnings on import without a GPU.
    from xformers.ops import memory_efficient_attention

    groups = q.shape[1] // k.shape[1]
    heads = q
    if groups > 1:
        # Grouped heads are a fifth axis [1, T, Hkv, groups, D]; keys and values are expanded as views.
        heads = q.unflatten(1, (k.shape[1], groups))
        k, v = (x[:, :, None].expand(-1, -1, groups, -1) for x in (k, v))
    out: Tensor = memory_efficient_attention(heads[None], k[None], v[None], attn_bias=_mask(segments, causal))
    return out.reshape(q.shape)


def _mask(segments: Segments, causal: bool) -> Any:
    """Returns the mask object of these boundaries, built once for all layers."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask

    name = f"_xformers_{'causal' if causal else 'full'}"
    if name not in segments.__dict__:
        kind = BlockDiagonalCausalMask if causal else BlockDiagonalMask
        segments.__dict__[name] = kind.from_seqlens(segments.lengths, device=segments.cu_seqlens.device)
    return segments.__dict__[name]
