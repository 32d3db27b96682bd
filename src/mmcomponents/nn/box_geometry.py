"""Boxes as centre and size, `(cx, cy, w, h)`, or as corners, `(x1, y1, x2, y2)`, in shares of the image."""

from __future__ import annotations

import torch
from torch import Tensor


def corners(boxes: Tensor) -> Tensor:
    """Returns the corners `[..., 4]` (left, top, right, bottom) of boxes `[..., 4]` of centre and size."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def centred(boxes: Tensor) -> Tensor:
    """Returns centre and size `[..., 4]` of boxes `[..., 4]` of corners."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((first + last) / 2, last - first), dim=-1)


def generalized_iou(one: Tensor, other: Tensor) -> Tensor:
    """Returns the generalized intersection over union (Rezatofighi et al. 2019, arXiv 1902.09630) of corners.

    Args:
        one: Corners `[..., 4]`.
        other: Corners of a shape that `one` broadcasts with; `one[:, None]` and `other[None]` give all pairs.

    Returns:
        `[...]`, from -1 to 1.
    """
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    common, hull = inner.prod(-1), outer.prod(-1)
    union = (one[..., 2:] - one[..., :2]).prod(-1) + (other[..., 2:] - other[..., :2]).prod(-1) - common
    tiny = torch.finfo(union.dtype).tiny
    return common / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Returns the logit of shares of any shape; those nearer than `eps` to 0 and 1 are moved there."""
    return torch.logit(x, eps=eps)
