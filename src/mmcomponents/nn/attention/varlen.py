"""Packed attention with torch's variable-length kernels (CUDA, half precision)."""

from __future__ import annotations

from torch import Tensor

from mmcomponents.nn.attention.segments import Segments


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
    """See `mmcomponents.nn.attention.attention`."""
    from torch.nn.attention.varlen import varlen_attn  # not in every torch build

    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        # Older releases do not support grouped heads; repeated keys give the same result in all releases.
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    cu, longest = segments.cu_seqlens, segments.max_seqlen
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), cu, cu, longest, longest, window_size=window)
    assert isinstance(out, Tensor)  # a tuple only if the log-sum-exp is requested
    return out
