"""Packed attention with torch's scaled-dot-product attention (any device)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mmcomponents.nn.attention.segments import Segments


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
    """See `mmcomponents.nn.attention.attention`.

    Segments of equal length form one batch; others are processed one after another, which needs neither a mask over
    the pack nor padding.
    """
    if segments.is_uniform:
        shape = (len(segments.lengths), segments.lengths[0])
        return _attend(q.unflatten(0, shape), k.unflatten(0, shape), v.unflatten(0, shape), causal).flatten(0, 1)
    parts = zip(*(x.split(segments.lengths) for x in (q, k, v)), strict=True)
    return torch.cat([_attend(a[None], b[None], c[None], causal)[0] for a, b, c in parts])


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Computes attention over `[B, L, H, D]` tensors."""
    grouped = q.shape[2] != k.shape[2]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped).transpose(1, 2)
