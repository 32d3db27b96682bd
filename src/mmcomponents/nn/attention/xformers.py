"""Packed attention by xformers' block-diagonal masks (CUDA)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmcomponents.nn.attention.segments import Segments


def xformers_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
    """See `mmcomponents.nn.attention.attention`."""
    # Imported here: the package warns loudly where there is no GPU.
    from xformers.ops import memory_efficient_attention

    groups = q.shape[1] // k.shape[1]
    if groups == 1:
        out = memory_efficient_attention(q[None], k[None], v[None], attn_bias=_mask(segments, causal))
        return _squeeze(out, q)
    # Grouped heads are a fifth axis [1, T, Hkv, groups, D]; keys and values are expanded as views.
    q5 = q.unflatten(1, (k.shape[1], groups))[None]
    k5 = k[:, :, None].expand(-1, -1, groups, -1)[None]
    v5 = v[:, :, None].expand(-1, -1, groups, -1)[None]
    return _squeeze(memory_efficient_attention(q5, k5, v5, attn_bias=_mask(segments, causal)), q)


def _squeeze(out: Tensor, q: Tensor) -> Tensor:
    return out.reshape(q.shape)


def _mask(segments: Segments, causal: bool) -> Any:
    """The mask object of these borders, made once for all layers."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask, BlockDiagonalMask

    name = f"_xformers_{'causal' if causal else 'full'}"
    if name not in segments.__dict__:
        kind = BlockDiagonalCausalMask if causal else BlockDiagonalMask
        segments.__dict__[name] = kind.from_seqlens(segments.lengths, device=segments.cu_seqlens.device)
    return segments.__dict__[name]
