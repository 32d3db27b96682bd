"""Packed attention that compiled code can contain: one operation on the CPU, torch's own on CUDA.

The boundaries of segments are a tensor, so that packs of other lengths run the same code; a loop over segments would be
unrolled. The kernels are those of `sdpa_attention` without compilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from mmcomponents.nn.attention.segments import Segments

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def traceable_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
    """See `mmcomponents.nn.attention.attention`; for tensors on the CPU."""
    return cast(Tensor, packed_attention(q, k, v, segments.cu_seqlens, causal)[0])


@torch.library.custom_op("mmcomponents::packed_attention", mutates_args=(), device_types="cpu")
def packed_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Computes attention within each segment.

    Args:
        q: `[T, H, D]` queries.
        k: `[T, Hkv, D]` keys; H is a multiple of Hkv.
        v: `[T, Hkv, D]` values.
        cu_seqlens: `[S+1]` int32 boundaries of the segments.
        causal: Whether a position attends only to itself and earlier positions of its segment.

    Returns:
        Attention `[T, H, D]` and the logarithms of the sums of its scores, fp32 `[T, H]`.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    sums = q.new_empty(q.shape[:2], dtype=torch.float32)
    for rows, count in _batches(cu_seqlens):
        result, logsumexp = _forward(*(_batch(x[rows], count) for x in (q, k, v)), 0.0, causal)
        out[rows], sums[rows] = _packed(result), _packed(logsumexp)
    return out, sums


@packed_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    return out, q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("mmcomponents::packed_attention_backward", mutates_args=(), device_types="cpu")
def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, cu_seqlens: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    for rows, count in _batches(cu_seqlens):
        parts = [_batch(x[rows], count) for x in (grad, q, k, v, out, sums)]
        for whole, part in zip(found, _backward(*parts, 0.0, causal), strict=True):
            whole[rows] = _packed(part)
    return found[0], found[1], found[2]


@_gradients.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, sums: Tensor, cu_seqlens: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return found[0], found[1], found[2]


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.causal = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, grad, _):  # type: ignore[no-untyped-def]
    q, k, v, cu_seqlens, out, sums = ctx.saved_tensors
    return *_gradients(grad, q, k, v, out, sums, cu_seqlens, ctx.causal), None, None


packed_attention.register_autograd(_differentiate, setup_context=_save)


def _batches(cu_seqlens: Tensor) -> Iterator[tuple[slice, int]]:
    """Yields rows of the pack and the number of segments of one length in them: all at once if they are equal."""
    bounds = cu_seqlens.tolist()
    pairs = [(first, last) for first, last in pairwise(bounds) if last > first]
    if len({last - first for first, last in pairs}) == 1:
        yield slice(pairs[0][0], pairs[-1][1]), len(pairs)
        return
    for first, last in pairs:
        yield slice(first, last), 1


def _batch(x: Tensor, count: int) -> Tensor:
    """Converts segments `[count * L, H, …]` to `[count, H, L, …]`."""
    segments: Tensor = x.unflatten(0, (count, -1))
    return segments.transpose(1, 2)


def _packed(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)
