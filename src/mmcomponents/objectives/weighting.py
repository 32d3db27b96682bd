"""Weights of the tokens in the loss.

Source: InternVL3 (arXiv 2504.10479, section 2.2). Reference code: OpenGVLab/InternVL.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE

Weighting = Literal["token", "sample", "square"]

_EXPONENT: dict[str, float] = {"token": 0.0, "sample": 1.0, "square": 0.5}


def token_weights(labels: Tensor, cu_seqlens: Tensor, weighting: Weighting) -> Tensor:
    """Computes the weight `1 / l**g` of each target, l the number of targets in its segment (InternVL3, section 2.2).

    Args:
        labels: `[T]` as in `PackedBatch`, `IGNORE` where there is no target.
        cu_seqlens: `[S+1]` segment boundaries.
        weighting: g is 0 for "token", 1 for "sample", 0.5 for "square", which favours neither short nor long answers.

    Returns:
        fp32 `[T]`, zero where there is no target.
    """
    if weighting not in _EXPONENT:
        raise ValueError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")
    target = labels != IGNORE
    before = torch.cat((target.new_zeros(1, dtype=torch.long), target.cumsum(0)))
    counts = before[cu_seqlens[1:].long()] - before[cu_seqlens[:-1].long()]
    weights = counts.clamp(min=1).double().pow(-_EXPONENT[weighting]).float()
    each = weights.repeat_interleave(cu_seqlens.diff().long(), output_size=labels.shape[0])
    return torch.where(target, each, 0.0)
