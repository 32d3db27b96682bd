"""Attention of new positions to a cache of earlier ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mmcomponents.nn.attention.segments import Segments


def cached_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, lengths: list[int]) -> Tensor:
    """Causal attention of each segment's new positions to all that is cached of it, themselves included.

    Args:
        q: `[T, H, D]` queries of the new positions.
        k: `[S, Hkv, L, D]` cached keys, the new ones included, padded to the longest segment.
        v: `[S, Hkv, L, D]` cached values.
        segments: Borders of the new positions.
        lengths: Cached positions of each segment, the new ones included.

    Returns:
        `[T, H, D]`.
    """
    groups = q.shape[1] // k.shape[1]
    if segments.max_seqlen == 1:
        return _one_each(q, k, v, groups, segments, lengths)
    out = []
    for s, rows in enumerate(q.split(segments.lengths)):
        new, known = rows.shape[0], lengths[s]
        ks = k[s, :, :known].repeat_interleave(groups, dim=0)
        vs = v[s, :, :known].repeat_interleave(groups, dim=0)
        # The last new position sees all; the mask is [new, known] for this one segment.
        ahead = torch.arange(known, device=q.device) <= torch.arange(known - new, known, device=q.device)[:, None]
        out.append(scaled_dot_product_attention(rows.transpose(0, 1), ks, vs, attn_mask=ahead).transpose(0, 1))
    return torch.cat(out)


def _one_each(q: Tensor, k: Tensor, v: Tensor, groups: int, segments: Segments, lengths: list[int]) -> Tensor:
    """One new position a segment, all segments in one call; the heads of a group are rows of one small query."""
    longest = max(lengths)
    k, v = k[:, :, :longest], v[:, :, :longest]
    mask = None if min(lengths) == longest else _unknown(segments, lengths, q)
    grouped = q.unflatten(1, (k.shape[1], groups))  # [S, Hkv, groups, D]: query head h uses key head h // groups
    return scaled_dot_product_attention(grouped, k, v, attn_mask=mask).flatten(1, 2)


def _unknown(segments: Segments, lengths: list[int], q: Tensor) -> Tensor:
    """Minus infinity where a padded cache holds nothing, `[S, 1, 1, L]`; made once for all layers of a call."""
    name = f"_unknown_{lengths}_{q.dtype}"
    if name not in segments.__dict__:
        places = torch.arange(max(lengths), device=q.device)
        empty = places >= torch.tensor(lengths, device=q.device)[:, None]
        segments.__dict__[name] = torch.zeros_like(empty, dtype=q.dtype).masked_fill_(empty, -torch.inf)[:, None, None]
    mask: Tensor = segments.__dict__[name]
    return mask
