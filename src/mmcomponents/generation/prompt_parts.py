"""Parts of a pack of prompts, so that what stays the same is computed once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch


def kept_positions(batch: PackedBatch, keep: Tensor, with_images: bool) -> PackedBatch:
    """Returns a pack with some positions of each segment, in their order.

    Args:
        batch: The pack; it is not changed.
        keep: `[T]` bool.
        with_images: Whether the part has the images.
    """
    layout = batch.layout
    counts = torch.bincount(layout.segment_of_token()[keep], minlength=layout.num_segments)
    bounds = torch.zeros_like(layout.cu_seqlens)
    bounds[1:] = counts.cumsum(0)
    made = replace(
        layout,
        token_type=layout.token_type[keep],
        cu_seqlens=bounds,
        max_seqlen=int(counts.max()),
        image_id=layout.image_id[keep],
    )
    return replace(
        batch,
        input_ids=batch.input_ids[keep],
        layout=made,
        visual_index=batch.visual_index[keep],
        labels=batch.labels[keep],
        images=batch.images if with_images else None,
    )
