"""Frozen linear map with weights of 4 bits, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

    weight, in blocks of 64 ──► codes (4 bits each, places in the table of 16 NF4 values), scales (largest value, fp32)

The kernels are those of bitsandbytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

from mmcomponents.nn.autocast import autocast_dtype

_BLOCK = 64
_KIND = "nf4"
_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class NF4Linear(nn.Module):
    """Linear map that replaces a trained one; its weight is quantised and gets no gradient.

    Codes and scales are buffers of bytes, so that a conversion of the model to another data type does not change them.
    Each call computes the weight in the data type of its input and frees it; the backward pass computes it again.

    Args:
        source: The map. On the meta device, only shapes are allocated.
        device: Where the weight is quantised and stays. None: where it is.
    """

    def __init__(self, source: nn.Linear, device: torch.device | None = None) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        weight = source.weight.detach().to(device)
        if weight.dtype not in _KERNEL_DTYPES:
            weight = weight.float()
        # Blocks are rows: the kernels of some devices begin a block in each row.
        blocks = pad(weight.flatten(), (0, -weight.numel() % _BLOCK))
        codes, state = quantize_4bit(blocks, blocksize=_BLOCK, quant_type=_KIND)
        self.register_buffer("codes", codes.flatten())
        self.register_buffer("scales", state.absmax.float().view(torch.uint8))
        self.bias = source.bias if source.bias is None or device is None else _moved(source.bias, device)
        self.train(source.training)

    codes: Tensor
    scales: Tensor

    @property
    def weight(self) -> Tensor:
        """The weight `[out_features, in_features]` in fp32, computed from its codes. Changes of it have no effect."""
        return dequantized(self.codes, self.scales, (self.out_features, self.in_features), torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., in_features]` to `[..., out_features]`."""
        dtype = autocast_dtype(x.device.type)
        bias = None if self.bias is None else self.bias.to(dtype or x.dtype)
        return _apply(x.to(dtype or x.dtype), self.codes, self.scales, bias, (self.out_features, self.in_features))

    def restored(self, dtype: torch.dtype) -> nn.Linear:
        """Returns a plain linear map with the weight that this one computes with, in the given data type."""
        found = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        found.weight = nn.Parameter(self.weight.to(dtype), requires_grad=False)
        found.bias = self.bias
        return found

    def extra_repr(self) -> str:
        """Describes the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def dequantized(codes: Tensor, scales: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns the weight that a map with these buffers computes with.

    Args:
        codes: uint8 `[32 * b]`, two weights in a byte, for b blocks of 64 weights.
        scales: uint8 `[4 * b]`, the bytes of an fp32 scale for each block.
        shape: Shape of the weight.
        dtype: Its data type.

    Returns:
        `[out_features, in_features]`, or another shape that is given.
    """
    from bitsandbytes.functional import QuantState, dequantize_4bit

    kind = dtype if dtype in _KERNEL_DTYPES else torch.float32
    scale = scales.view(torch.float32)
    rows = torch.Size((scale.numel(), _BLOCK))
    state: Any = QuantState(absmax=scale, shape=rows, dtype=kind, blocksize=_BLOCK, quant_type=_KIND)
    flat: Tensor = dequantize_4bit(codes.unsqueeze(1), state).flatten()
    return flat[: math.prod(shape)].view(shape).to(dtype)


def has_kernels() -> bool:
    """Returns whether bitsandbytes is installed."""
    return find_spec("bitsandbytes") is not None


def quantized_weights(module: nn.Module) -> int:
    """Returns the number of quantised weights within a module, which are no parameters."""
    maps = (inner for inner in module.modules() if isinstance(inner, NF4Linear))
    return sum(inner.in_features * inner.out_features for inner in maps)


def linear_weights(module: nn.Module) -> int:
    """Returns the number of weights, without biases, of all linear maps within a module, quantised or not."""
    plain = (inner for inner in module.modules() if isinstance(inner, nn.Linear))
    return sum(inner.weight.numel() for inner in plain) + quantized_weights(module)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, shape: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.shape = shape
        return linear(x, dequantized(codes, scales, shape, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        of_input = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = grad @ dequantized(codes, scales, ctx.shape, grad.dtype)
        if ctx.needs_input_grad[3]:
            of_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
        return of_input, None, None, of_bias, None


_apply: Callable[..., Tensor] = _Linear.apply


def _moved(bias: nn.Parameter, device: torch.device) -> nn.Parameter:
    return nn.Parameter(bias.detach().to(device), bias.requires_grad)
