"""Queries for contrastive denoising (Zhang et al. 2022, "DINO", arXiv 2203.03605, section 3.3).

A group has two queries for each true box: one near it, which has to find it, and one further away, which has to find
nothing. The number of groups is that of each image alone, so that it does not depend on other images of the pack; in
the released code it is that of the image with the most boxes in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcomponents.nn.box_geometry import centred, corners
from mmcomponents.nn.detections import Denoising
from mmcomponents.objectives.box_matching import Truth


class NoisyTruth(NamedTuple):
    """Denoising queries with what they have to find.

    Attributes:
        queries: The queries, D for each of N tiles.
        box: `[N, D]` number of the true box of each query in its tile.
        weight: fp32 `[N, D]` share of each query in the loss, 1 over the number of groups; 0 for padding.
        near: bool `[N, D]` whether a query has to find its box.
    """

    queries: Denoising
    box: Tensor
    weight: Tensor
    near: Tensor


def noisy_truth(
    truth: Truth,
    generators: Sequence[np.random.Generator],
    num_classes: int,
    number: int,
    label_noise: float,
    box_noise: float,
) -> NoisyTruth:
    """Makes the denoising queries of a pack.

    Args:
        truth: The true boxes.
        generators: Random generator of each segment.
        num_classes: Number of classes.
        number: Number of near queries of a tile: it has `number` over the number of its boxes groups, at least one. 0:
            no queries.
        label_noise: Twice the probability that a class is replaced by a random one.
        box_noise: Largest shift of a corner of a near query, in halves of the size of the box; further queries are
            shifted by that up to twice as much.
    """
    tiles = len(truth.counts)
    groups = [max(1, number // count) if count and number else 0 for count in truth.counts]
    most = max((2 * g * count for g, count in zip(groups, truth.counts, strict=True)), default=0)
    index, group, replaced = (np.full((tiles, most), fill, np.int64) for fill in (0, -1, -1))
    shift, near = np.zeros((tiles, most, 4), np.float32), np.zeros((tiles, most), bool)
    for tile, (g, count) in enumerate(zip(groups, truth.counts, strict=True)):
        if not g:
            continue
        draw, shape, end = generators[truth.segment[tile]], (g, 2, count), 2 * g * count
        index[tile, :end] = np.broadcast_to(np.arange(count), shape).ravel()
        group[tile, :end] = np.broadcast_to(np.arange(g)[:, None, None], shape).ravel()
        near[tile, :end] = np.broadcast_to(np.array([True, False])[None, :, None], shape).ravel()
        classes = draw.integers(num_classes, size=shape)
        replaced[tile, :end] = np.where(draw.random(shape) < label_noise / 2, classes, -1).ravel()
        size = draw.random((*shape, 4), np.float32) + np.array([0.0, 1.0], np.float32)[None, :, None, None]
        shift[tile, :end] = (size * draw.choice((-1.0, 1.0), (*shape, 4))).reshape(-1, 4)
    device = truth.box.device
    where, own, other, moved, is_near = (torch.from_numpy(a).to(device) for a in (index, group, replaced, shift, near))
    label = truth.label.gather(1, where) if most else where
    box = truth.box.gather(1, where[..., None].expand(-1, -1, 4)) if most else truth.box.new_zeros(tiles, 0, 4)
    half = (box[..., 2:] / 2).repeat(1, 1, 2)
    noisy = centred((corners(box) + moved * half * box_noise).clamp(0.0, 1.0))
    share = torch.tensor([1 / g if g else 0.0 for g in groups], device=device)[:, None]
    queries = Denoising(torch.where(other >= 0, other, label), noisy, own)
    return NoisyTruth(queries, where, share * (own >= 0), is_near)
