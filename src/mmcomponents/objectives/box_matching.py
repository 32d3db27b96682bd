"""Assignment of predictions to true boxes (Carion et al. 2020, "DETR", arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmcomponents.extras import Boxes
from mmcomponents.nn.box_geometry import corners, generalized_iou

_HUGE = 1e8
"""Takes the place of a cost that is not finite, so that the loss tells it and not the assignment."""


class Truth(NamedTuple):
    """True boxes of N tiles, padded to the largest number of a tile.

    Attributes:
        box: fp32 `[N, n, 4]` centre and size.
        label: `[N, n]`; 0 in the padding.
        counts: Number of boxes of each tile.
        segment: Segment of each tile; -1 without boxes.
    """

    box: Tensor
    label: Tensor
    counts: list[int]
    segment: list[int]

    @classmethod
    def of(cls, boxes: Boxes, num_tiles: int, device: torch.device) -> Truth:
        """Sorts the boxes of a pack by their tiles."""
        assert boxes.segment is not None
        tiles, segments = boxes.tile.tolist(), boxes.segment.tolist()
        count, segment, place = [0] * num_tiles, [-1] * num_tiles, []
        for tile, own in zip(tiles, segments, strict=True):
            place.append(count[tile])
            count[tile] += 1
            segment[tile] = own
        most = max(count, default=0)
        box = torch.full((num_tiles, most, 4), 0.5, device=device)
        label = torch.zeros(num_tiles, most, dtype=torch.int64, device=device)
        if tiles:
            where = (boxes.tile.to(device), torch.tensor(place, device=device))
            box[where] = boxes.cxcywh.tensor.to(device)
            label[where] = boxes.label.to(device)
        return cls(box, label, count, segment)


@dataclass(frozen=True)
class Matches:
    """Pairs of a prediction and a true box, `[P]` each.

    Attributes:
        tile: Number of the tile in the pack.
        stage: Stage of the prediction.
        query: Its number.
        box: Number of the true box in its tile.
    """

    tile: Tensor
    stage: Tensor
    query: Tensor
    box: Tensor


@dataclass(frozen=True)
class MatchingCost:
    """Cost of a pair: a class part like the focal loss, L1 distance and negated generalized IoU.

    Attributes:
        class_weight: Factor of the class part.
        l1_weight: Factor of the L1 distance.
        giou_weight: Factor of the generalized IoU.
        alpha: Weight of positives in the focal loss.
        gamma: Its exponent.
    """

    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, truth: Truth) -> Matches:
        """Assigns a prediction to each true box, one to one with the least sum of costs, in each stage of each tile.

        Args:
            logits: `[N, stages, Q, classes]`.
            boxes: `[N, stages, Q, 4]` centre and size.
            truth: The true boxes; of a tile with more of them than predictions, the rest has none.
        """
        columns: list[list[np.ndarray]] = [[], [], [], []]
        if truth.box.shape[1]:
            costs = self.of_pairs(logits, boxes, truth).cpu().numpy()  # the only copy to the host
            for tile, count in enumerate(truth.counts):
                for stage in range(costs.shape[1] if count else 0):
                    query, box = linear_sum_assignment(costs[tile, stage, :, :count])
                    pair = (np.full_like(query, tile), np.full_like(query, stage), query, box)
                    for column, values in zip(columns, pair, strict=True):
                        column.append(values)
        joined = [np.concatenate(column) if column else np.zeros(0, np.int64) for column in columns]
        return Matches(*(torch.from_numpy(column.astype(np.int64)).to(logits.device) for column in joined))

    def of_pairs(self, logits: Tensor, boxes: Tensor, truth: Truth) -> Tensor:
        """Returns the costs of all pairs of a prediction and a true box.

        Args:
            logits: `[N, stages, Q, classes]`.
            boxes: `[N, stages, Q, 4]` centre and size, in shares of the image.
            truth: The true boxes, n of each tile, padded.

        Returns:
            `[N, stages, Q, n]`.
        """
        label = truth.label[:, None, None].expand(*logits.shape[:3], -1)
        p = logits.sigmoid().gather(-1, label)
        positive = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        true = truth.box[:, None, None]
        distance = (boxes[..., None, :] - true).abs().sum(-1)
        overlap = generalized_iou(corners(boxes)[..., None, :], corners(true))
        cost = self.class_weight * (positive - negative) + self.l1_weight * distance - self.giou_weight * overlap
        return cost.nan_to_num(_HUGE, _HUGE, -_HUGE)
