"""Parts of other packages for models without a language side, and for images that are ids."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

import tiny
from mmcomponents.batch import FeatureMap, ImageBatch, LossOutput, ModelState, PackedBatch, VisualFeatures
from mmcomponents.heads import Head
from mmcomponents.objectives import Objective
from mmcomponents.testing import small_parts
from mmcomponents.training import MultimodalTask
from mmcomponents.vision import VisionEncoder

SLOTS: dict[str, Any] = dict.fromkeys(("projector", "embedder", "position", "backbone"))
"""Empty slots of a model without a language side."""


class BoxHead(Head):
    """Four numbers for each tile, from the mean of the last map."""

    needs = ("visual",)

    def __init__(self, in_features: int, vocab_size: int | None = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.linear = nn.Linear(in_features, 4)
        self.init_weights()

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        assert state.visual is not None
        return self.linear(state.visual.primary.tokens.mean(1))


class ManyMaps(BoxHead):
    """A head that is built with the widths of all maps."""

    def __init__(self, in_features: tuple[int, ...], vocab_size: int | None) -> None:
        super().__init__(in_features[-1])
        self.in_features = in_features


class BoxLoss(Objective):
    """Mean square of the boxes of all tiles, without words."""

    denominator = "boxes"
    needs_heads = ("boxes",)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"boxes": 0.0 if batch.images is None else float(batch.images.num_tiles)}

    def forward(self, model: Any, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        boxes = model(batch, read=lambda heads, state: heads["boxes"](state, batch))
        share = (boxes - 1.0).square().sum() / max(totals["boxes"], 1.0)
        total = share * float(batch.images is not None)  # else these are the boxes of the blank tile
        return LossOutput(total, {"loss": total.detach()})


class IdVision(VisionEncoder):
    """Embeds the ids of an image tokenizer, `side` x `side` for each tile."""

    def __init__(self, hidden_size: int = tiny.VISION, codebook: int = 16, side: int = 4, factor: int = 4) -> None:
        super().__init__()
        self.hidden_size, self.codebook, self.side, self.factor = hidden_size, codebook, side, factor
        self.image_size = side * factor
        self.codes = nn.Embedding(codebook, hidden_size)
        self.init_weights()

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        return pixel_hw[0] // self.factor, pixel_hw[1] // self.factor

    def blank(self, device: torch.device | str) -> ImageBatch:
        ids = torch.zeros(1, self.side, self.side, dtype=torch.long, device=device)
        return ImageBatch(None, torch.zeros(1, dtype=torch.long, device=device), vq_ids=ids)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        if images.vq_ids is None:
            raise ValueError("IdVision encodes ids of an image tokenizer (vq_ids), and the images are pixels")
        hw = (int(images.vq_ids.shape[1]), int(images.vq_ids.shape[2]))
        return VisualFeatures([FeatureMap(self.codes(images.vq_ids.flatten(1)), hw)], images.context, images.valid_hw)


def seeing_task(**changes: Any) -> MultimodalTask:
    """Returns a task whose model has vision, merger and a head that reads the map."""
    parts = small_parts(**SLOTS, heads={"boxes": BoxHead})
    arguments: dict[str, Any] = {"objective": BoxLoss, "optimizer": partial(SGD, lr=0.05, momentum=0.9)}
    return MultimodalTask(**(parts | arguments | changes))
