"""Attention over packed segments and the choice of its backend."""

from __future__ import annotations

import importlib.util
import logging
from functools import lru_cache
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from mmcomponents.nn.attention.sdpa import sdpa_attention
from mmcomponents.nn.attention.segments import Segments
from mmcomponents.nn.attention.traceable import traceable_attention
from mmcomponents.nn.attention.varlen import varlen_attention
from mmcomponents.nn.attention.xformers import xformers_attention

log = logging.getLogger(__name__)

Backend = Literal["auto", "xformers", "varlen", "sdpa"]


class PackedAttention(Protocol):
    """Signature of a backend; see `attention`."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool) -> Tensor:
        """See `mmcomponents.nn.attention.attention`."""
        ...


BACKENDS: dict[str, PackedAttention] = {
    "xformers": xformers_attention,
    "varlen": varlen_attention,
    "sdpa": sdpa_attention,
}


def attention(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, causal: bool, backend: Backend = "auto"
) -> Tensor:
    """Computes attention of each position to its own segment.

    Args:
        q: `[T, H, D]` queries.
        k: `[T, Hkv, D]` keys; H is a multiple of Hkv (grouped-query attention).
        v: `[T, Hkv, D]` values.
        segments: Boundaries of the segments.
        causal: Whether a position attends only to itself and earlier positions of its segment.
        backend: "auto" selects the best one that runs on the device.

    Returns:
        `[T, H, D]`.

    Raises:
        ValueError: The backend is unknown, or the query heads are not a multiple of the key heads.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are not a multiple of {k.shape[1]} key heads")
    if torch.compiler.is_compiling():
        if q.device.type == "cpu":
            return traceable_attention(q, k, v, segments, causal=causal)
        backend = "varlen" if backend == "auto" else backend  # xformers' masks are no tensors
    name = _chosen(backend, q.device.type, q.dtype, q.shape[-1])
    return BACKENDS[name](q, k, v, segments, causal=causal)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chosen(backend: str, device: str, dtype: torch.dtype, head_dim: int) -> str:
    return choose_backend(backend, device, dtype, head_dim)


@lru_cache(maxsize=64)
def choose_backend(backend: str, device: str, dtype: torch.dtype, head_dim: int) -> str:
    """Returns the name of the requested backend, or of the next available one after logging the reason in one line.

    The result is cached, so that the line is logged once for each combination.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"unknown attention backend {backend!r}; available: {', '.join(get_args(Backend))}")
    candidates = ["xformers", "varlen", "sdpa"] if backend == "auto" else [backend, "varlen", "sdpa"]
    reasons: list[str] = []
    for name in candidates:
        why_not = _why_not(name, device, dtype, head_dim)
        if why_not is None:
            if reasons and (backend != "auto" or device == "cuda"):
                log.warning("attention runs on %s: %s", name, "; ".join(reasons))
            return name
        reasons.append(f"{name} {why_not}")
    raise AssertionError("sdpa runs everywhere")  # pragma: no cover


def _why_not(name: str, device: str, dtype: torch.dtype, head_dim: int) -> str | None:
    if name == "sdpa":
        return None
    if device != "cuda":
        return f"has no {device} kernel"
    if name == "xformers":
        return None if importlib.util.find_spec("xformers") else "is not installed (pip install xformers)"
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return f"is not part of torch {torch.__version__}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"does not take {dtype}"
    if head_dim % 8 or head_dim > 256:
        return f"does not take heads of {head_dim}"
    return None
