"""A small detector of the library's parts, with packs of images of equal and of unequal sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.compose import Factories
from mmcomponents.fusers import ChannelMapper, DeformableEncoder, UFIEncoder
from mmcomponents.heads import DetectionHead
from mmcomponents.model import MultimodalModel
from mmcomponents.testing import pack
from mmcomponents.vision import ResNet

WIDTH, LEVELS, QUERIES = 16, 4, 10
LAYERS: dict[str, Any] = {"num_layers": 3, "num_heads": 2, "num_points": 2, "intermediate_size": 20}
RESNET = partial(ResNet, (1, 1, 1, 1), 4, image_size=64)
NECK = partial(ChannelMapper, width=WIDTH, num_levels=LEVELS, num_groups=4)
PLAIN = partial(DeformableEncoder, neck=NECK, **LAYERS)
UNIFIED = partial(UFIEncoder, neck=NECK, **LAYERS)
HEAD = partial(DetectionHead, num_classes=3, num_queries=QUERIES, num_inquiries=2, **LAYERS)


def detector(seed: int = 0, head: Any = HEAD, fuser: Any = UNIFIED, vision: Any = RESNET) -> MultimodalModel:
    """Returns a detector whose boxes move and whose places depend on the queries, in evaluation mode."""
    model = Factories(vision=vision, fuser=fuser, heads={"detection": head}).build(None, None)
    model.init_weights(seed)
    stir(model)
    return model.eval()


@torch.no_grad()
def stir(part: torch.nn.Module, scale: float = 0.3) -> None:
    """Adds noise to weights that start at zero, so that a test sees what depends on them."""
    draw = torch.Generator().manual_seed(7)
    for parameter in part.parameters():
        parameter.add_(scale * parameter.abs().mean().clamp(min=0.05) * torch.randn(parameter.shape, generator=draw))


def images(*sizes: tuple[int, int], seed: int = 0) -> ImageBatch:
    """Returns images of these heights and widths, padded to the largest ones, with noise in the padding."""
    draw = torch.Generator().manual_seed(seed)
    high, wide = (max(size[n] for size in sizes) for n in (0, 1))
    pixels = torch.randn(len(sizes), 3, high, wide, generator=draw)
    valid = None if len({*sizes}) == 1 else torch.tensor(sizes)
    return ImageBatch(pixels, torch.arange(len(sizes)), valid_hw=valid)


def alone(batch: ImageBatch, number: int) -> ImageBatch:
    """Returns one image of a batch without its padding."""
    pixels = batch.require_pixels()[number : number + 1]
    if batch.valid_hw is not None:
        height, width = batch.valid_hw[number].tolist()
        pixels = pixels[:, :, :height, :width]
    return ImageBatch(pixels, torch.zeros(1, dtype=torch.long))


def levels(seed: int = 0, groups: int = 3, tiles: int = 2) -> VisualFeatures:
    """Returns random levels of 8 x 6, 4 x 3, 2 x 2 and 1 x 1 places for each of a number of encoder layers."""
    draw = torch.Generator().manual_seed(seed)
    grids = [(8, 6), (4, 3), (2, 2), (1, 1)] * groups
    return VisualFeatures([FeatureMap(torch.randn(tiles, h * w, WIDTH, generator=draw), (h, w)) for h, w in grids])


def detected(model: MultimodalModel, batch: ImageBatch) -> tuple[Tensor, Tensor]:
    """Returns logits and boxes of all stages."""
    found = model.heads["detection"].detect(model.encode(batch))
    return found.logits, found.boxes


def packed(batch: ImageBatch) -> PackedBatch:
    """Returns a pack without tokens, one segment for each image."""
    made = pack(*[[("i", 1)]] * batch.num_tiles, tokens_per_tile=0)
    return replace(made, images=batch)
