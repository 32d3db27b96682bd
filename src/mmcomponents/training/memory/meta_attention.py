"""Attention on the meta device as the flash kernels do it: without a matrix of scores.

It keeps queries, keys, values, its result and a number per query for the backward pass.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import register_flop_formula


class FlashAttention(TorchFunctionMode):
    """Replaces torch's attention, which would build the scores on the meta device, by an operation without them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _replaced(*args, **(kwargs or {}))


def _replaced(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    # A square mask is a causal one with padding: half of it is not counted, as in a causal kernel.
    half = is_causal or (attn_mask is not None and attn_mask.shape[-1] == attn_mask.shape[-2])
    return cast(Tensor, flash_attention(query, key, value, half)[0])


@torch.library.custom_op("mmcomponents::flash_attention", mutates_args=(), device_types="meta")
def flash_attention(q: Tensor, k: Tensor, v: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Returns attention without data, on the meta device.

    Args:
        q: `[..., H, L, D]` queries.
        k: `[..., Hkv, K, D]` keys.
        v: `[..., Hkv, K, D]` values.
        half: Whether half of the operations are counted, as of a causal kernel.

    Returns:
        Attention `[..., H, L, D]` and the logarithm of the sum of scores, fp32 `[..., H, L]`.
    """
    return cast(tuple[Tensor, Tensor], _attention_shapes(q, k, v, half))


@flash_attention.register_fake
def _attention_shapes(q: Tensor, k: Tensor, v: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    # Contiguous in [B, L, H, D], as the kernels return it.
    out = q.new_empty((*q.shape[:-3], q.shape[-2], q.shape[-3], v.shape[-1])).transpose(-3, -2)
    return out, q.new_empty(q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("mmcomponents::flash_attention_backward", mutates_args=(), device_types="meta")
def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.half = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *_rest = ctx.saved_tensors
    return (*_attention_backward(grad, q, k, v, ctx.half), None)


flash_attention.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.mmcomponents.flash_attention)
def _attention_flops(q: Any, k: Any, v: Any, half: bool, *_: Any, **__: Any) -> int:
    """Two products, of queries and keys and of scores and values, two operations per multiply-add."""
    batch_heads, rows = 1, q[-2]
    for size in q[:-2]:
        batch_heads *= size
    return int(batch_heads * rows * k[-2] * 2 * (q[-1] + v[-1]) // (2 if half else 1))


@register_flop_formula(torch.ops.mmcomponents.flash_attention_backward)
def _attention_backward_flops(grad: Any, q: Any, k: Any, v: Any, half: bool, *_: Any, **__: Any) -> int:
    """Twice the forward pass; that the kernels compute the scores again is not counted."""
    return 2 * _attention_flops(q, k, v, half)
