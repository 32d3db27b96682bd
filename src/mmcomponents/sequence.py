"""Packing of one sequence from plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, TokenType


def one_sequence(
    input_ids: Tensor, pixel_values: Tensor | None = None, image_token_id: int | None = None
) -> PackedBatch:
    """Packs one sequence whose image tokens are in the order of the tiles' visual tokens.

    Args:
        input_ids: `[T]` int64 or int32.
        pixel_values: `[N, 3, H, W]`, or None.
        image_token_id: Token id of the placeholder of a visual token; each run of it is one image.

    Returns:
        A pack with one segment and no labels.

    Raises:
        TypeError: `input_ids` is no int32 or int64 tensor, or `pixel_values` is no tensor.
        ValueError: Tiles are given without `image_token_id`, or the tensors have other shapes.
    """
    kind = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
    if kind not in (torch.int64, torch.int32):
        raise TypeError(f"input_ids must be a tensor of int64 or int32, got {kind}")
    if not isinstance(pixel_values, Tensor | None):
        raise TypeError(f"pixel_values must be a tensor [N, 3, H, W], got {type(pixel_values).__name__}")
    if input_ids.ndim != 1:
        raise ValueError(f"input_ids must be one sequence [T], got {list(input_ids.shape)}")
    if pixel_values is not None and pixel_values.ndim != 4:
        raise ValueError(f"pixel_values must be [N, 3, H, W], got {list(pixel_values.shape)}")
    if pixel_values is not None and image_token_id is None:
        raise ValueError(
            "pixel_values need image_token_id (an argument of one_sequence and of the model), which is None"
        )
    device, length = input_ids.device, input_ids.shape[0]
    visual = torch.zeros_like(input_ids, dtype=torch.bool) if image_token_id is None else input_ids == image_token_id
    starts = visual.clone()
    starts[1:] &= ~visual[:-1]
    image_id = torch.where(visual, starts.cumsum(0) - 1, -1)
    runs = torch.bincount(image_id[visual], minlength=int(starts.sum()))
    layout = Layout(
        token_type=torch.where(visual, int(TokenType.IMAGE), int(TokenType.TEXT)),
        cu_seqlens=torch.tensor([0, length], dtype=torch.int32, device=device),
        max_seqlen=length,
        image_id=image_id,
        grid=torch.stack((torch.ones_like(runs), torch.ones_like(runs), runs), dim=1),
    )
    images = None
    if pixel_values is not None:
        # All tiles have the same number of visual tokens, so the first one of a tile determines its run and image.
        placed, tiles = image_id[visual], pixel_values.shape[0]
        first = torch.arange(tiles, device=device) * (placed.shape[0] // max(tiles, 1))
        images = ImageBatch(pixel_values, placed[first] if placed.shape[0] >= tiles else torch.zeros_like(first))
    return PackedBatch(
        input_ids=input_ids,
        layout=layout,
        visual_index=torch.where(visual, visual.cumsum(0) - 1, -1),
        labels=torch.full_like(input_ids, IGNORE),
        segment_sample=torch.zeros(1, dtype=torch.long, device=device),
        segment_source=torch.zeros(1, dtype=torch.long, device=device),
        keys=["sequence"],
        images=images,
    )
