"""Packs of prompts with some of their positions only, or with further ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, PackedBatch, TokenType


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


def with_suffixes(batch: PackedBatch, suffixes: Sequence[Sequence[tuple[int, TokenType]]]) -> PackedBatch:
    """Returns a pack with tokens after each segment.

    Args:
        batch: The pack; it is not changed.
        suffixes: Ids and types of the tokens after each segment, none of which point to visual tokens.
    """
    layout, device = batch.layout, batch.input_ids.device
    lengths = layout.cu_seqlens.diff().tolist()
    added = [torch.tensor([token for token, _ in suffix], dtype=torch.int64, device=device) for suffix in suffixes]
    kinds = [torch.tensor([int(kind) for _, kind in suffix], dtype=torch.int64, device=device) for suffix in suffixes]

    def joined(values: Tensor, after: Sequence[Tensor]) -> Tensor:
        pairs = zip(values.split(lengths), after, strict=True)
        return torch.cat([part.to(values.dtype) for pair in pairs for part in pair])

    none = [torch.full_like(ids, -1) for ids in added]
    total = [length + len(ids) for length, ids in zip(lengths, added, strict=True)]
    made = replace(
        layout,
        token_type=joined(layout.token_type, kinds),
        cu_seqlens=torch.tensor([0, *total], device=device).cumsum(0).to(torch.int32),
        max_seqlen=max(total),
        image_id=joined(layout.image_id, none),
    )
    return replace(
        batch,
        input_ids=joined(batch.input_ids, added),
        layout=made,
        visual_index=joined(batch.visual_index, none),
        labels=torch.full((sum(total),), IGNORE, device=device),
    )
