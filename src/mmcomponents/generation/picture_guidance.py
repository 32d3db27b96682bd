"""Guidance of pictures by words, layout and reference: weights of four branches.

Reference code: rongyaofang/GoT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mmcomponents.nn.pictures import BRANCHES


def branch_weights(semantic: float, spatial: float, reference: float) -> tuple[float, float, float, float]:
    """Returns the weights of `BRANCHES`, whose sum is 1 (GoT, arXiv 2503.10639, section 4.3, equation 1).

    The guided estimate is `e(0,0,0) + semantic [e(t,0,r) - e(0,0,r)] + spatial [e(t,s,r) - e(t,0,r)] + reference
    [e(0,0,r) - e(0,0,0)]`, which is this sum. With three ones it is the last branch alone.

    Args:
        semantic: Weight of the words.
        spatial: Weight of the layout.
        reference: Weight of the reference picture.
    """
    return 1 - reference, reference - semantic, semantic - spatial, spatial


def guided(weights: Sequence[float], estimate: Callable[[tuple[bool, bool, bool]], Tensor]) -> Tensor:
    """Returns the weighted sum of the estimates of all branches; one of weight 0 is not computed.

    Args:
        weights: Weight of each of `BRANCHES`, not all 0.
        estimate: Returns the estimate of a branch, of any shape, given which of words, layout and reference it has.

    Returns:
        Sum in the shape of an estimate, such as `[P, c, h, w]`.
    """
    total: Tensor | None = None
    for weight, given in zip(weights, BRANCHES, strict=True):
        if weight:
            term = weight * estimate(given)
            total = term if total is None else total + term
    assert total is not None
    return total
