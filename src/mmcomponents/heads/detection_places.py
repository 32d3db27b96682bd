"""Places of the levels that a detection head reads: memories, boxes around places, and which queries see which.

Two-stage proposals as in Deformable DETR (arXiv 2010.04159, appendix A.4), groups of denoising queries as in DINO
(arXiv 2203.03605, section 3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcomponents.batch import FeatureMap
from mmcomponents.heads.inquiries import Memory
from mmcomponents.nn.sine_positions import sine_embedding
from mmcomponents.nn.valid_places import centres, inside, valid_share

_EDGE = 0.01
"""Centres nearer than this share to the edge of the image make no proposals."""


def memory_of(levels: list[FeatureMap]) -> Memory:
    """Returns what the queries of a layer read of levels."""
    grids = [level.hw for level in levels]
    valid = [level.valid_hw for level in levels if level.valid_hw is not None]
    masks = [inside(v, grid).flatten(1) for v, grid in zip(valid, grids, strict=True)] if valid else None
    share = torch.stack([valid_share(level) for level in levels], dim=1)
    return Memory([level.tokens for level in levels], grids, share, masks)


def place_boxes(levels: list[FeatureMap], memory: Memory) -> tuple[Tensor, Tensor]:
    """Returns a box around each place, fp32 `[N or 1, S, 4]`, and whether it is a proposal, bool `[N or 1, S]`."""
    boxes, usable = [], []
    for number, level in enumerate(levels):
        centre = centres(level)
        boxes.append(torch.cat((centre, torch.full_like(centre, 0.05 * 2**number)), dim=-1))
        usable.append(((centre > _EDGE) & (centre < 1 - _EDGE)).all(-1))
        if memory.inside is not None:
            usable[-1] = usable[-1] & memory.inside[number]
    return torch.cat(boxes, dim=1), torch.cat(usable, dim=1)


def num_proposals(hw: tuple[int, int]) -> int:
    """Returns the number of proposals of a level of this height and width without padding."""
    return math.prod(sum(_EDGE < (i + 0.5) / n < 1 - _EDGE for i in range(n)) for n in hw)


def box_embedding(boxes: Tensor, width: int) -> Tensor:
    """Returns embeddings `[..., 2 * width]` of boxes `[..., 4]`, in the order y, x, w, h."""
    return sine_embedding(boxes[..., [1, 0, 2, 3]], width // 2)


def group_mask(group: Tensor, queries: int) -> Tensor:
    """Returns which queries see which, bool `[N, D + Q, D + Q]`.

    Queries that find boxes see each other alone. A denoising query sees its group and them; one of the padding sees
    only them.

    Args:
        group: `[N, D]` group of each denoising query, -1 for padding.
        queries: Number Q of queries that find boxes.
    """
    tiles, count = group.shape
    sees = torch.zeros(tiles, count + queries, count + queries, dtype=torch.bool, device=group.device)
    sees[:, :, count:] = True
    same = (group[:, :, None] == group[:, None, :]) & (group >= 0)[:, :, None]
    sees[:, :count, :count] = same
    return sees
