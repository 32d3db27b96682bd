"""Detection head with parallel inquiries (MI-DETR, arXiv 2503.01463), on a decoder as DINO's (arXiv 2203.03605).

levels ── scores, boxes of all places ── best Q ──► reference boxes
queries ── layer 1 ── … ── layer L        each layer: M inquiries in parallel, fused by one map that all layers share
             │               │            each layer moves the boxes
           stage 1         stage L        (stage 0: the proposals)

Reference code: CQU-ADHRI-Lab/MI-DETR.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mmcomponents.batch import FeatureMap, ModelState, PackedBatch, VisualFeatures
from mmcomponents.component import Composition, WiringError
from mmcomponents.heads.base import Head
from mmcomponents.heads.detection_places import box_embedding, group_mask, memory_of, num_proposals, place_boxes
from mmcomponents.heads.inquiries import Inquiries, LiteInquiries, Memory
from mmcomponents.limits import MAX_LAYERS, MAX_ROWS, check_sizes
from mmcomponents.nn.box_geometry import inverse_sigmoid
from mmcomponents.nn.deformable_attention import init_deformable
from mmcomponents.nn.detections import Denoising, Detections
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.valid_places import check_told

_PRIOR = 0.01
"""Probability of each class at the start (Lin et al. 2017, arXiv 1708.02002, section 3.3)."""


class BoxMap(nn.Module):
    """Three linear maps with ReLU between them, whose last one starts at zero.

    Args:
        width: Input and inner width.
        out: Output width.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., width]` to `[..., out]`."""
        first, second, last = self.layers
        out: Tensor = last(relu(second(relu(first(x)))))
        return out


class DetectionHead(Head):
    """Finds boxes and their classes in several levels of features.

    The levels are those of one layer of an encoder, which all decoder layers read, or those of as many layers as the
    decoder has: layer k then reads the k-th from the last (`UFIEncoder`).

    Args:
        in_features: Widths of the maps, all equal.
        vocab_size: Not used.
        num_classes: Number of classes.
        num_queries: Number of boxes that it returns, Q.
        num_inquiries: Number of parallel layers, M. 1: a plain decoder, without the map that fuses them.
        num_layers: Number of decoder layers, L.
        num_levels: Number of levels of a layer of the encoder.
        num_heads: Number of heads.
        num_points: Number of places that a head looks at in a level.
        intermediate_size: Inner width of the feed-forward blocks.

    Raises:
        WiringError: The maps have unequal widths, or are not the levels of one layer or of `num_layers`.
    """

    needs: ClassVar[tuple[str, ...]] = ("visual",)
    weight_methods: ClassVar[tuple[str, ...]] = ("detect",)
    inquiries: ClassVar[type[Inquiries]] = Inquiries
    """Class of a decoder layer."""

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        vocab_size: int | None = None,
        num_classes: int = 80,
        num_queries: int = 900,
        num_inquiries: int = 4,
        num_layers: int = 6,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        intermediate_size: int = 2048,
    ) -> None:
        super().__init__()
        check_sizes(num_heads=num_heads, num_points=num_points, intermediate_size=intermediate_size)
        check_sizes(MAX_ROWS, num_queries=num_queries, num_classes=num_classes)
        check_sizes(MAX_LAYERS, num_inquiries=num_inquiries, num_layers=num_layers, num_levels=num_levels)
        name, widths = type(self).__name__, (in_features,) if isinstance(in_features, int) else tuple(in_features)
        if len(widths) not in (num_levels, num_levels * num_layers) or len({*widths}) > 1:
            raise WiringError(
                f"{name} takes maps of one width, {num_levels} (num_levels) or {num_levels * num_layers} (those of"
                f" num_layers {num_layers}), and is given {len(widths)} of the widths {sorted({*widths})}"
            )
        width = widths[0]
        if width % num_heads or width % 4:
            raise ValueError(f"the width {width} must be a multiple of num_heads {num_heads} and of 4")
        self.in_features, self.width = in_features, width
        self.num_classes, self.num_queries, self.num_inquiries = num_classes, num_queries, num_inquiries
        self.num_layers, self.num_levels, self.num_heads, self.num_points = (
            num_layers,
            num_levels,
            num_heads,
            num_points,
        )
        self.intermediate_size = intermediate_size
        self.shard_units = (self.inquiries,)
        self.proposal_map = nn.Linear(width, width)
        self.proposal_norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.empty(num_queries, width))
        self.noisy_classes = nn.Parameter(torch.empty(num_classes, width))
        self.position_map = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        self.decoder = nn.ModuleList(
            self.inquiries(num_inquiries, width, num_levels, num_heads, num_points, intermediate_size)
            for _ in range(num_layers)
        )
        self.fusion: nn.Module = nn.Identity()
        if num_inquiries > 1:
            self.fusion = nn.Sequential(nn.Linear(num_inquiries * width, width), nn.LayerNorm(width))
        self.norm = nn.LayerNorm(width)
        self.class_maps = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(num_layers + 1))
        self.box_maps = nn.ModuleList(BoxMap(width, 4) for _ in range(num_layers + 1))
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Starts with a low probability of each class, and with boxes that no layer moves."""
        if name.startswith("class_maps.") and name.endswith("bias"):
            value.fill_(-math.log((1 - _PRIOR) / _PRIOR))
        elif name.startswith("box_maps.") and ".layers.2." in name:
            value.zero_()
        elif name in ("queries", "noisy_classes"):
            nn.init.normal_(value, generator=generator)
        elif not name.startswith("decoder.") or not init_deformable(name, value, self.num_heads, self.num_points):
            super().init_parameter(name, value, generator)

    def check(self, model: Composition) -> None:
        """Checks that tiles of the encoder's size have as many places as there are queries.

        Raises:
            WiringError: They have fewer.
        """
        grids = getattr(model.vision, "grids", None)
        if grids is None or model.fuser is None or not hasattr(model.fuser, "level_grids"):
            return
        side = model.vision.image_size
        levels = model.fuser.level_grids(grids((side, side)))
        places = sum(num_proposals(level) for level in levels)
        if places < self.num_queries:
            raise WiringError(
                f"{type(self).__name__} has num_queries {self.num_queries}, and a tile of {side} pixels has {places}"
                f" places in the levels of {type(model.fuser).__name__}"
            )

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Returns class logits and boxes of each stage, fp32 `[N, L + 1, Q, num_classes + 4]`; see `detect`."""
        assert state.visual is not None
        found = self._detect(state.visual, None)  # `detect` would shard the weights again before this method ends
        both = torch.cat((found.logits, found.boxes), dim=-1)
        return both + 0.0 * self.noisy_classes.sum() if torch.is_grad_enabled() else both

    def detect(self, features: VisualFeatures, denoising: Denoising | None = None) -> Detections:
        """Finds boxes.

        Args:
            features: The levels.
            denoising: Further queries, which only training has.

        Raises:
            WiringError: There is another number of maps than the head is built for.
            ValueError: An image has fewer places than there are queries, or maps of unequal images do not tell their
                padding.
        """
        return self._detect(features, denoising)

    def _detect(self, features: VisualFeatures, denoising: Denoising | None) -> Detections:
        layers = self._by_layer(features)
        memories = [memory_of(levels) for levels in layers]
        chosen, logits, unbounded = self._proposals(layers[-1], memories[-1])
        stage_logits, stage_boxes = [logits], [unbounded.sigmoid()]
        reference = unbounded.detach().sigmoid()
        x = self.queries.to(chosen.dtype).expand(len(reference), -1, -1)
        sees, count = None, 0
        if denoising is not None:
            count = denoising.box.shape[1]
            x = torch.cat((self.noisy_classes[denoising.label].to(x.dtype), x), dim=1)
            reference = torch.cat((denoising.box.to(reference.dtype), reference), dim=1)
            sees = group_mask(denoising.group, self.num_queries)
        moving = reference  # as the layers before have moved it, with gradient: "look forward twice"
        for number, layer in enumerate(self.decoder):
            memory = memories[-1] if len(memories) == 1 else memories[self.num_layers - 1 - number]
            positions = self.position_map(box_embedding(reference, self.width).to(x.dtype))
            x = self.fusion(layer(x, positions, reference, memory, sees))
            out = self.norm(x)
            stage_logits.append(self.class_maps[number](out).float())
            stage_boxes.append((self.box_maps[number](out).float() + inverse_sigmoid(moving)).sigmoid())
            if number + 1 < self.num_layers:
                moving = (self.box_maps[number](x).float() + inverse_sigmoid(reference)).sigmoid()
                reference = moving.detach()
        found = [torch.stack([stage[:, -self.num_queries :] for stage in s], 1) for s in (stage_logits, stage_boxes)]
        noisy = [torch.stack([stage[:, :count] for stage in s[1:]], 1) for s in (stage_logits, stage_boxes)]
        return Detections(found[0], found[1], noisy[0], noisy[1])

    def flops(self, batch: PackedBatch) -> float:
        """Counts the linear maps of the queries; those of the places, whose number the head learns later, are not."""
        tiles = 0 if batch.images is None else batch.images.num_tiles
        weights = sum(layer.query_weights() for layer in self.decoder if isinstance(layer, Inquiries))
        weights += self.num_layers * (linear_weights(self.fusion) + linear_weights(self.position_map))
        weights += sum(linear_weights(m) for m in (*self.class_maps, *self.box_maps))
        attention = 2 * self.num_queries * self.width * self.num_layers * self.num_inquiries
        return 2.0 * tiles * self.num_queries * (weights + attention)

    def _by_layer(self, features: VisualFeatures) -> list[list[FeatureMap]]:
        name, maps = type(self).__name__, features.maps
        expected = 1 if isinstance(self.in_features, int) else len(self.in_features)
        if len(maps) != expected:
            raise WiringError(f"{name} is built for {expected} maps and is given {len(maps)}")
        check_told(name, features, maps)
        return [maps[first : first + self.num_levels] for first in range(0, len(maps), self.num_levels)]

    def _proposals(self, levels: list[FeatureMap], memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Returns features `[N, Q, C]`, logits and boxes (before the sigmoid) of the places with the highest scores."""
        boxes, usable = place_boxes(levels, memory)
        tokens = torch.cat(list(memory.maps), dim=1)
        tokens = self.proposal_norm(self.proposal_map(tokens.masked_fill(~usable[..., None], 0.0)))
        logits = self.class_maps[-1](tokens).float()
        scores = logits.amax(-1).masked_fill(~usable, -torch.inf)
        self._check_places(levels, usable)
        best = scores.topk(self.num_queries, dim=1).indices[..., None]
        chosen = tokens.gather(1, best.expand(-1, -1, self.width))
        start = torch.logit(boxes.expand(len(tokens), -1, -1).gather(1, best.expand(-1, -1, 4)), eps=1e-6)
        return (
            chosen,
            logits.gather(1, best.expand(-1, -1, self.num_classes)),
            self.box_maps[-1](chosen).float() + start,
        )

    def _check_places(self, levels: list[FeatureMap], usable: Tensor) -> None:
        """Checks the number of places without reading from the device, but for images of unequal sizes."""
        places = sum(num_proposals(level.hw) for level in levels)
        if levels[0].valid_hw is not None and not usable.is_meta:
            places = int(usable.sum(1).min())
        if places < self.num_queries:
            raise ValueError(
                f"{type(self).__name__} has num_queries {self.num_queries}, and an image has {places} places in"
                f" {len(levels)} levels: use larger images or fewer queries"
            )


class LiteDetectionHead(DetectionHead):
    """Detection head whose parallel inquiries share their self-attention (MI-DETR's Lite-MI); see `DetectionHead`."""

    inquiries = LiteInquiries
