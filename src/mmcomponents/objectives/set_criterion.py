"""Set criterion of detection transformers: matched predictions find boxes, all others nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from mmcomponents.batch import LossOutput, ModelState, PackedBatch, VisualFeatures
from mmcomponents.component import Composition, WiringError
from mmcomponents.extras import Boxes
from mmcomponents.limits import check_numbers
from mmcomponents.nn.box_geometry import corners, generalized_iou
from mmcomponents.nn.detections import Denoising, Detections
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives.base import Model, Objective
from mmcomponents.objectives.box_matching import MatchingCost, Truth
from mmcomponents.objectives.denoising import NoisyTruth, noisy_truth

FIELD = "boxes"
"""Name of the true boxes among the extras of a pack."""


class BoxHead(Protocol):
    """Interface of heads for losses over boxes; see `mmcomponents.heads.DetectionHead`."""

    num_classes: int
    num_queries: int

    def detect(self, features: VisualFeatures, denoising: Denoising | None = None) -> Detections:
        """Finds boxes."""
        ...


class SetCriterion(Objective):
    """Focal loss of the classes, L1 distance and generalized IoU of matched boxes, in every stage of a detection head.

    As in DINO (arXiv 2203.03605) and MI-DETR (arXiv 2503.01463): one prediction for each true box (`MatchingCost`), the
    same weights for the proposals and all decoder layers, and in training contrastive denoising queries, whose loss has
    the same weights again. All sums are divided by the number of true boxes of the step.

    Args:
        head: Name of the detection head.
        class_weight: Factor of the focal loss.
        l1_weight: Factor of the L1 distance of centres and sizes.
        giou_weight: Factor of 1 minus the generalized IoU.
        class_cost: Factor of the class part in the matching; the other two are those of the loss.
        alpha: Weight of positives in the focal loss.
        gamma: Exponent of the focal loss.
        denoising: Number of denoising queries near true boxes, see `noisy_truth`; 0: none.
        label_noise: See `noisy_truth`.
        box_noise: See `noisy_truth`.
    """

    needs = ("visual",)
    denominator = "boxes"
    validated = MappingProxyType({"class": "boxes", "l1": "boxes", "giou": "boxes"})

    def __init__(
        self,
        head: str = "detection",
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        class_cost: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
        denoising: int = 100,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
    ) -> None:
        super().__init__()
        check_numbers(class_weight=class_weight, l1_weight=l1_weight, giou_weight=giou_weight, class_cost=class_cost)
        check_numbers(alpha=alpha, gamma=gamma, denoising=denoising, label_noise=label_noise, box_noise=box_noise)
        self.head, self.needs_heads = head, (head,)
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma
        self.denoising, self.label_noise, self.box_noise = denoising, label_noise, box_noise
        self.cost = MatchingCost(class_cost, l1_weight, giou_weight, alpha, gamma)
        self._most: tuple[int, int] | None = None  # classes and queries of the head, once `check` has seen it

    def check(self, model: Composition) -> None:
        """Checks that the head finds boxes.

        Raises:
            WiringError: It does not.
        """
        head = model.heads[self.head]
        if not callable(getattr(head, "detect", None)):
            raise WiringError(
                f"{type(self).__name__} calls detect of the head {self.head!r}, which {type(head).__name__} does not"
                " have: use DetectionHead"
            )
        self._most = (head.num_classes, head.num_queries)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the true boxes, each of which is a target.

        Raises:
            WiringError: The pack has no boxes field, a class that the head has not, or an image with more boxes than
                the head has queries.
        """
        boxes = _boxes(batch)
        if self._most is not None and len(boxes.label):
            self._check_boxes(batch, boxes, *self._most)
        count = float(len(boxes.label))
        return {"boxes": count, "targets": count}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step."""
        tiles = 1 if batch.images is None else batch.images.num_tiles  # the blank tile of a pack without images
        head = cast(BoxHead, model.heads[self.head])
        boxes = _boxes(batch)
        truth = Truth.of(boxes, tiles, boxes.label.device)
        noisy = None
        if self.training:
            generators = batch.generators("denoising")
            noisy = noisy_truth(truth, generators, head.num_classes, self.denoising, self.label_noise, self.box_noise)

        def read(heads: nn.ModuleDict, state: ModelState) -> Detections:
            assert state.visual is not None
            queries = None if noisy is None else noisy.queries
            return cast(BoxHead, heads[self.head]).detect(state.visual, queries)

        found: Detections = model(batch, Runtime(needs=self.needs), read=read)
        count = max(totals["boxes"], 1.0)
        parts = self._matched(found, truth)
        sums = {name: value.sum() / count for name, value in parts.items()}
        last = {name: value[-1].detach() / count for name, value in parts.items()}
        if noisy is not None:
            for name, value in self._noisy(found, truth, noisy).items():
                sums[name] = sums[name] + value / count
                last[f"noisy_{name}"] = value.detach() / count
        weights = {"class": self.class_weight, "l1": self.l1_weight, "giou": self.giou_weight}
        total = torch.stack([weight * sums[name] for name, weight in weights.items()]).sum()
        if batch.images is None:
            total = total * 0.0
        return LossOutput(total, {"loss": total.detach(), **last})

    def _matched(self, found: Detections, truth: Truth) -> dict[str, Tensor]:
        """Returns the sum of each part over all tiles, for each stage, fp32 `[stages]`."""
        matches = self.cost.match(found.logits, found.boxes, truth)
        where = (matches.tile, matches.stage, matches.query)
        wanted = torch.zeros_like(found.logits)
        label = truth.label[matches.tile, matches.box]
        wanted[(*where, label)] = 1.0
        focal = self._focal(found.logits, wanted).sum((0, 2, 3))
        l1, giou = _distances(found.boxes[where], truth.box[matches.tile, matches.box])
        zeros = torch.zeros_like(focal)
        return {
            "class": focal,
            "l1": zeros.index_add(0, matches.stage, l1),
            "giou": zeros.index_add(0, matches.stage, giou),
        }

    def _noisy(self, found: Detections, truth: Truth, noisy: NoisyTruth) -> dict[str, Tensor]:
        """Returns the sum of each part over the denoising queries of all layers, each image's groups as one."""
        classes = found.noisy_logits.shape[-1]
        if not noisy.box.shape[1]:  # a sum of nothing that keeps its place in the graph
            return dict.fromkeys(("class", "l1", "giou"), found.noisy_logits.sum() + found.noisy_boxes.sum())
        label = truth.label.gather(1, noisy.box)
        wanted = (one_hot(label, classes) * noisy.near[..., None]).to(found.noisy_logits.dtype)
        focal = self._focal(found.noisy_logits, wanted[:, None].expand_as(found.noisy_logits)).sum(-1)
        true = truth.box.gather(1, noisy.box[..., None].expand(-1, -1, 4))[:, None]
        l1, giou = _distances(found.noisy_boxes, true.expand_as(found.noisy_boxes))
        weight = noisy.weight[:, None]
        near = weight * noisy.near[:, None]
        return {"class": (focal * weight).sum(), "l1": (l1 * near).sum(), "giou": (giou * near).sum()}

    def _focal(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Returns the focal loss (Lin et al. 2017, arXiv 1708.02002, equation 5) of each class."""
        p = logits.sigmoid()
        other = p * (1 - wanted) + (1 - p) * wanted
        weight = self.alpha * wanted + (1 - self.alpha) * (1 - wanted)
        return weight * other**self.gamma * binary_cross_entropy_with_logits(logits, wanted, reduction="none")

    def _check_boxes(self, batch: PackedBatch, boxes: Boxes, classes: int, queries: int) -> None:
        assert boxes.segment is not None
        wrong = ((boxes.label < 0) | (boxes.label >= classes)).nonzero()[:, 0].tolist()
        if wrong:
            key, label = batch.keys[int(boxes.segment[wrong[0]])], int(boxes.label[wrong[0]])
            raise WiringError(
                f"{len(wrong)} of {len(boxes.label)} boxes of a pack have a class that the head {self.head!r} with"
                f" num_classes {classes} has not, such as {label} in {key}: num_classes of BoxedImage skips such"
                " samples"
            )
        most, tile = boxes.tile.bincount().max(0)
        if int(most) > queries:
            key = batch.keys[int(boxes.segment[(boxes.tile == tile).nonzero()[0, 0]])]
            raise WiringError(
                f"an image of {key} has {int(most)} boxes, and the head {self.head!r} has num_queries {queries}:"
                " max_boxes of BoxedImage skips such samples"
            )


def _distances(boxes: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Returns L1 distance and 1 minus generalized IoU of pairs of boxes, `[..., 4]` to `[...]`."""
    return (boxes - true).abs().sum(-1), 1 - generalized_iou(corners(boxes), corners(true))


def _boxes(batch: PackedBatch) -> Boxes:
    boxes = batch.extras.get(FIELD)
    if not isinstance(boxes, Boxes):
        raise WiringError(
            "SetCriterion needs the true boxes of images, and the packs have none: name the record kind in data.kinds"
            " (BoxedImage)"
        )
    return boxes
