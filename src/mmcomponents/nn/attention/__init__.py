"""Attention over packed segments, behind one function.

    q, k, v [T, H, D], Segments ── attention ──► [T, H, D]          (training, prefill)
    new q, cached k, v ── cached_attention ──► [T, H, D]            (decoding)

Three backends compute the same: xformers and torch's variable-length kernels on CUDA, and scaled-dot-product attention
on any device. None of them builds a `[T, T]` mask.
"""

from __future__ import annotations

from mmcomponents.nn.attention.cached import cached_attention
from mmcomponents.nn.attention.packed import BACKENDS, attention, choose_backend
from mmcomponents.nn.attention.segments import Segments

__all__ = ["BACKENDS", "Segments", "attention", "cached_attention", "choose_backend"]
