"""Mean features of the text of each tile's segment, which condition a merger."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents.batch import ImageBatch, PackedBatch, TokenType


def with_text_context(images: ImageBatch, batch: PackedBatch, features: Tensor) -> ImageBatch:
    """Returns tiles with the mean of the text features of their segment as `context`.

    An image that several segments show has the text of the first one; the blank tile of a pack without images, and a
    segment without text, have zeros.

    Args:
        images: Tiles of the pack, or its blank tile.
        batch: The pack.
        features: `[E, c]` features of the positions of type EXTERNAL.
    """
    if batch.images is None:
        return replace(images, context=features.new_zeros(images.num_tiles, features.shape[1]))
    layout, segments = batch.layout, batch.num_segments
    segment = layout.segment_of_token()
    own = segment[layout.token_type == TokenType.EXTERNAL]
    sums = features.new_zeros(segments + 1, features.shape[1]).index_add(0, own, features)
    counts = torch.bincount(own, minlength=segments + 1).clamp(min=1)
    shown = layout.image_id >= 0
    number = int(images.tile_image.max()) + 1 if images.num_tiles else 0
    first = torch.full((number,), segments, device=segment.device)
    first = first.scatter_reduce(0, layout.image_id[shown], segment[shown], "amin")
    return replace(images, context=(sums / counts[:, None].to(sums.dtype))[first[images.tile_image]])
