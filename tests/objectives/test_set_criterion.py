"""Set criterion: perfect predictions, its parts, one denominator, and what it refuses. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import midetr
from mmcomponents.batch import FeatureMap, ModelState, PackedBatch, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.extras import Boxes
from mmcomponents.heads import LMHead
from mmcomponents.movable import Exact
from mmcomponents.nn.detections import Detections
from mmcomponents.objectives import SetCriterion
from mmcomponents.objectives.base import check_objective
from mmcomponents.testing import small_model

COUNTS = (3, 0, 2)


class Fixed:
    """A model whose head returns given predictions, and the given true boxes for denoising queries."""

    def __init__(self, logits: Tensor, boxes: Tensor) -> None:
        self.logits, self.boxes = logits, boxes
        self.num_classes, self.num_queries = logits.shape[-1], logits.shape[2]
        self.heads: Any = {"detection": self}
        self.noisy = (torch.zeros(len(logits), 1, 0, self.num_classes), torch.zeros(len(logits), 1, 0, 4))

    def __call__(self, batch: PackedBatch, runtime: Any = None, read: Any = None) -> Any:
        return read(self.heads, ModelState(visual=VisualFeatures([FeatureMap(torch.zeros(3, 1, 4), (1, 1))])))

    def detect(self, features: Any, denoising: Any = None) -> Detections:
        return Detections(self.logits, self.boxes, *self.noisy)


def batch() -> PackedBatch:
    draw = torch.Generator().manual_seed(0)
    tile = torch.tensor([n for n, count in enumerate(COUNTS) for _ in range(count)])
    box = torch.cat((0.3 + 0.4 * torch.rand(5, 2, generator=draw), 0.1 + 0.2 * torch.rand(5, 2, generator=draw)), dim=1)
    made = midetr.packed(midetr.images(*[(64, 64)] * 3))
    return replace(made, extras={"boxes": Boxes(Exact(box), torch.tensor([0, 2, 1, 2, 2]), tile, tile)})


def perfect(given: PackedBatch, sure: float = 20.0, queries: int = 4) -> Fixed:
    """Returns predictions in two stages that are the true boxes, in another order, and nothing else."""
    boxes = given.extras["boxes"]
    logits, found = torch.full((3, 2, queries, 3), -sure), torch.full((3, 2, queries, 4), 0.5)
    for tile, count in enumerate(COUNTS):
        mine = (boxes.tile == tile).nonzero()[:, 0]
        for place, number in enumerate(mine.tolist()):
            query = count - place
            found[tile, :, query] = boxes.cxcywh.tensor[number]
            logits[tile, :, query] = sure * (2 * one_hot(boxes.label[number], 3) - 1)
    return Fixed(logits, found)


def test_perfect_predictions_have_no_loss() -> None:
    given, objective = batch(), SetCriterion(denoising=0)
    found = objective(perfect(given), given, objective.counts(given))
    assert found.parts["l1"] == 0
    assert float(found.parts["giou"]) == pytest.approx(0, abs=1e-6)
    assert float(found.total) < 1e-6
    worse = perfect(given)
    worse.boxes = worse.boxes + 0.01
    assert objective(worse, given, objective.counts(given)).total > 0.1


def test_parts_are_sums_over_the_number_of_boxes_in_every_stage() -> None:
    given, objective = batch(), SetCriterion(denoising=0, class_weight=1.0, l1_weight=5.0, giou_weight=2.0)
    model = perfect(given, sure=1.0)
    model.boxes = model.boxes.clone()
    model.boxes[..., :2] += 0.01
    found = objective(model, given, {"boxes": 10.0})
    assert float(found.parts["l1"]) == pytest.approx(5 * 0.02 / 10, abs=1e-6)
    p = torch.tensor(1.0).sigmoid()
    hit, miss = 0.25 * (1 - p) ** 2 * -p.log(), 0.75 * (1 - p) ** 2 * -p.log()
    focal = (5 * hit + (3 * 4 * 3 - 5) * miss) / 10
    assert float(found.parts["class"]) == pytest.approx(float(focal), abs=1e-5)
    last = found.parts
    both = 2 * (last["class"] + 5 * last["l1"] + 2 * last["giou"])  # two stages
    assert float(found.total) == pytest.approx(float(both), abs=1e-5)


def test_denoising_queries_are_learnt_near_and_left_alone_far() -> None:
    given, objective = batch(), SetCriterion(denoising=3, label_noise=0.0)
    model = midetr.detector().train()
    counts = objective.counts(given)
    found = objective(model, given, counts)
    assert {"noisy_class", "noisy_l1", "noisy_giou"} <= found.parts.keys()
    assert objective.eval()(model, given, counts).parts.keys() == {"loss", "class", "l1", "giou"}
    off = SetCriterion(denoising=0)
    assert float(off(model, given, counts).total) < float(found.total)
    objective.train()
    assert torch.equal(objective(model, given, counts).total, found.total)  # noise is a function of the sample
    again = replace(given, epoch=1)
    assert not torch.equal(objective(model, again, counts).total, found.total)


def test_an_image_without_boxes_finds_nothing() -> None:
    given = replace(batch(), extras={"boxes": Boxes.none()})
    objective, model = SetCriterion(), midetr.detector().train()
    found = objective(model, given, objective.counts(given))
    assert float(found.total) > 0
    assert found.parts["l1"] == found.parts["giou"] == 0
    found.total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_it_refuses() -> None:
    objective, model = SetCriterion(), midetr.detector()
    with pytest.raises(WiringError, match="needs the true boxes of images, and the packs have none"):
        objective.counts(midetr.packed(midetr.images((64, 64))))
    check_objective(objective, model)
    given = batch()
    boxes = given.extras["boxes"]
    wrong = replace(boxes, label=torch.tensor([0, 2, 1, 3, 7]))
    with pytest.raises(WiringError, match=r"2 of 5 boxes .* num_classes 3 has not, such as 3 in tiny/2"):
        objective.counts(replace(given, extras={"boxes": wrong}))
    many = replace(boxes, **{n: getattr(boxes, n).repeat(4) for n in ("label", "tile", "segment")})
    many = replace(many, cxcywh=Exact(boxes.cxcywh.tensor.repeat(4, 1)))
    with pytest.raises(
        WiringError, match=r"an image of tiny/0 has 12 boxes, and the head 'detection' has num_queries 10"
    ):
        objective.counts(replace(given, extras={"boxes": many}))
    with pytest.raises(
        WiringError, match="calls detect of the head 'lm', which LMHead does not have: use DetectionHead"
    ):
        check_objective(SetCriterion(head="lm"), small_model(heads={"lm": LMHead}))
