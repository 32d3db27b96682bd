"""Attention of new positions to cached keys and values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mmcomponents.nn.attention.segments import Segments


def cached_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, lengths: list[int]) -> Tensor:
    """Computes causal attention of the new positions of each segment to its cached positions, themselves included.

    Args:
        q: `[T, H, D]` queries of the new positions.
        k: `[S, Hkv, L, D]` cached keys including the new ones, padded to the longest segment.
        v: `[S, Hkv, L, D]` cached values.
        segments: Boundaries of the new positions.
        lengths: Number of cached positions of each segment, including the new ones.

    Returns:
        `[T, H, D]`.
    """
    groups = q.shape[1] // k.shape[1]
    if segments.max_seqlen == 1:
        return _single_positions(q, k, v, groups, segments, lengths)
    out = []
    for s, qs in enumerate(q.split(segments.lengths)):
        new, cached = qs.shape[0], lengths[s]
        ks = k[s, :, :cached].repeat_interleave(groups, dim=0)
        vs = v[s, :, :cached].repeat_interleave(groups, dim=0)
        # The last new position attends to all; the mask of this segment is [new, cached].
        mask = torch.arange(cached, device=q.device) <= torch.arange(cached - new, cached, device=q.device)[:, None]
        out.append(scaled_dot_product_attention(qs.transpose(0, 1), ks, vs, attn_mask=mask).transpose(0, 1))
    return torch.cat(out)


def _single_positions(q: Tensor, k: Tensor, v: Tensor, groups: int, segments: Segments, lengths: list[int]) -> Tensor:
    """Attention of one new position per segment, all in one call; the heads of a group are rows of a small query."""
    longest = max(lengths)
    k, v = k[:, :, :longest], v[:, :, :longest]
    mask = None if min(lengths) == longest else _padding_mask(segments, lengths, q)
    grouped = q.unflatten(1, (k.shape[1], groups))  # [S, Hkv, groups, D]: query head h uses key head h // groups
    return scaled_dot_product_attention(grouped, k, v, attn_mask=mask).flatten(1, 2)


def _padding_mask(segments: Segments, lengths: list[int], q: Tensor) -> Tensor:
    """Returns a mask `[S, 1, 1, L]`, minus infinity at padding of the cache; built once for all layers of a call."""
    name = f"_padding_{lengths}_{q.dtype}"
    if name not in segments.__dict__:
        positions = torch.arange(max(lengths), device=q.device)
        empty = positions >= torch.tensor(lengths, device=q.device)[:, None]
        segments.__dict__[name] = torch.zeros_like(empty, dtype=q.dtype).masked_fill_(empty, -torch.inf)[:, None, None]
    mask: Tensor = segments.__dict__[name]
    return mask
