"""Assignment of predictions to true boxes, against all assignments."""

from __future__ import annotations

from itertools import permutations

import torch

from mmcomponents.extras import Boxes
from mmcomponents.movable import Exact
from mmcomponents.nn.box_geometry import corners, generalized_iou
from mmcomponents.objectives.box_matching import MatchingCost, Truth

QUERIES, CLASSES, STAGES = 6, 3, 2
COUNTS = [4, 0, 6, 1]


def truth() -> Truth:
    draw = torch.Generator().manual_seed(0)
    tile = torch.tensor([n for n, count in enumerate(COUNTS) for _ in range(count)])
    order = torch.randperm(len(tile), generator=draw)
    box = 0.1 + 0.4 * torch.rand(len(tile), 4, generator=draw)
    label = torch.randint(CLASSES, (len(tile),), generator=draw)
    boxes = Boxes(Exact(box[order]), label[order], tile[order], tile[order])
    return Truth.of(boxes, len(COUNTS), torch.device("cpu"))


def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    shape = (len(COUNTS), STAGES, QUERIES)
    return torch.randn(*shape, CLASSES, generator=draw), 0.1 + 0.4 * torch.rand(*shape, 4, generator=draw)


def test_boxes_are_sorted_by_tiles() -> None:
    found = truth()
    assert found.counts == COUNTS
    assert found.segment == [0, -1, 2, 3]
    assert found.box.shape == (4, 6, 4)
    assert found.label[1].tolist() == [0] * 6


def test_the_assignment_has_the_least_cost_of_all() -> None:
    found, cost = truth(), MatchingCost()
    logits, boxes = predictions()
    matches, costs = cost.match(logits, boxes, found), cost.of_pairs(logits, boxes, found)
    assert len(matches.box) == STAGES * sum(COUNTS)
    for tile, count in enumerate(COUNTS):
        for stage in range(STAGES):
            mine = (matches.tile == tile) & (matches.stage == stage)
            assert sorted(matches.box[mine].tolist()) == list(range(count))
            assert len({*matches.query[mine].tolist()}) == count
            total = float(costs[tile, stage, matches.query[mine], matches.box[mine]].sum())
            least = min(
                sum(float(costs[tile, stage, query, box]) for box, query in enumerate(chosen))
                for chosen in permutations(range(QUERIES), count)
            )
            assert abs(total - least) < 1e-4


def test_the_cost_has_the_parts_of_the_loss() -> None:
    found, (logits, boxes) = truth(), predictions()
    parts = [MatchingCost(*weights).of_pairs(logits, boxes, found) for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    whole = MatchingCost().of_pairs(logits, boxes, found)
    assert torch.allclose(2 * parts[0] + 5 * parts[1] + 2 * parts[2], whole, atol=1e-5)
    distance = (boxes[2, 1, 3] - found.box[2, 5]).abs().sum()
    assert torch.allclose(parts[1][2, 1, 3, 5], distance)
    overlap = generalized_iou(corners(boxes[2, 1, 3]), corners(found.box[2, 5]))
    assert torch.allclose(parts[2][2, 1, 3, 5], -overlap)
    p = logits[2, 1, 3, found.label[2, 5]].sigmoid()
    expected = -0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()
    assert torch.allclose(parts[0][2, 1, 3, 5], expected, atol=1e-5)


def test_more_boxes_than_predictions_leave_boxes_without_one() -> None:
    found, (logits, boxes) = truth(), predictions()
    matches = MatchingCost().match(logits[:, :, :3], boxes[:, :, :3], found)
    assert len(matches.box[(matches.tile == 2) & (matches.stage == 0)]) == 3


def test_no_boxes_and_predictions_that_are_not_finite() -> None:
    logits, boxes = predictions()
    none = Truth.of(Boxes.none(), len(COUNTS), torch.device("cpu"))
    assert len(MatchingCost().match(logits, boxes, none).box) == 0
    boxes[0] = torch.nan
    assert len(MatchingCost().match(logits, boxes, truth()).box) == STAGES * sum(COUNTS)
