"""Pack that a plan is made for, and a loss over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from mmcomponents.batch import IGNORE, Layout, ModelState, PackedBatch, TokenType
from mmcomponents.model import MultimodalModel
from mmcomponents.vision.base import repeated

MOST_TOKENS = 10**8
MOST_TILES = 48
"""Tiles of InternVL's packs."""


def synthetic_pack(
    model: MultimodalModel,
    tokens: int,
    tiles: int | None,
    most_tiles: int | None = MOST_TILES,
    tile_hw: tuple[int, int] | None = None,
) -> PackedBatch:
    """Returns a pack of one conversation: one image, then text in which every token has a target.

    A single segment maximises the cost of attention, and targets everywhere maximise that of the head. All tiles are
    views of the encoder's planned tile, so that they take the memory of one. A model without a language side gets a
    pack without tokens.

    Args:
        model: Determines the number of visual tokens of a tile.
        tokens: Number of tokens of the pack, of a model with a language side.
        tiles: Number of tiles. None: as many as fit into three quarters of the pack, at most `most_tiles`.
        most_tiles: Largest number of tiles of a pack. None: no limit with a language side, 48 without.
        tile_hw: Height and width of a tile of pixels. None: those of the encoder's planned tile.

    Raises:
        ValueError: There are too many tokens, more of tiles than the pack has, or the model has no vision encoder.
    """
    if tokens > MOST_TOKENS:
        raise ValueError(f"a pack of {tokens:,} tokens is more than the {MOST_TOKENS:,} that can be planned")
    each = model.tokens_per_tile
    has_language = model.embedder is not None or model.backbone is not None
    if tiles is None:
        tiles = 0 if each is None else tokens * 3 // 4 // each if has_language else MOST_TILES
        tiles = tiles if most_tiles is None else min(tiles, most_tiles)
    if tiles and each is None:
        raise ValueError(f"{tiles} tiles were requested and the model has no vision encoder")
    visual = tiles * (each or 0) if has_language else 0
    tokens = tokens if has_language else 0
    if visual > tokens:
        raise ValueError(f"{tiles} tiles become {visual} tokens, more than the {tokens} of the pack")
    place = torch.arange(tokens)
    seen = place < visual
    images = None
    if tiles and model.vision is not None:
        tile = model.vision.planned_tile("cpu")
        if tile_hw is not None and tile.pixels is not None:
            tile = replace(tile, pixels=tile.pixels.new_zeros(1, 3, *tile_hw))
        images = replace(repeated(tile, tiles), tile_image=torch.zeros(tiles, dtype=torch.long))
    return PackedBatch(
        input_ids=torch.zeros_like(place),
        layout=Layout(
            token_type=torch.where(seen, int(TokenType.IMAGE), int(TokenType.TEXT)),
            cu_seqlens=torch.tensor([0, tokens], dtype=torch.int32),
            max_seqlen=tokens,
            image_id=torch.where(seen, 0, -1),
            grid=torch.tensor([[1, 1, visual]])[: int(tiles > 0)],
        ),
        visual_index=torch.where(seen, place, -1),
        labels=torch.where(seen, IGNORE, 0),
        segment_sample=torch.zeros(1, dtype=torch.long),
        segment_source=torch.zeros(1, dtype=torch.long),
        keys=["plan"],
        images=images,
    )


def on_meta(batch: PackedBatch) -> PackedBatch:
    """Returns a pack whose pixels have no data; its integers stay as they are."""
    images = batch.images
    if images is None or images.pixels is None:
        return batch
    return replace(batch, images=replace(images, pixels=images.pixels.to("meta")))


def pack_loss(model: MultimodalModel, batch: PackedBatch, by_position: bool) -> Tensor:
    """Computes a loss that reads every head: the likelihood of all targets, or the sum of what a head returns.

    Args:
        model: Model on the meta device.
        batch: The pack.
        by_position: Whether the loss needs the likelihood of each position, as preference losses do, so that the head
            computes its logits again in the backward pass.

    Returns:
        Scalar.
    """

    def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
        found = [_head_loss(head, state, batch, by_position) for head in heads.values()]
        last = next(v for v in (state.hidden, state.embeds, state.visual_tokens) if v is not None)
        return torch.stack(found).sum() if found else last.float().sum()

    return cast(Tensor, model(batch, read=read))


def _head_loss(head: Any, state: ModelState, batch: PackedBatch, by_position: bool) -> Tensor:
    if state.hidden is not None and hasattr(head, "weighted_nll"):
        if by_position:
            return cast(Tensor, head.nll(state.hidden, batch.labels).sum())
        return cast(Tensor, head.weighted_nll(state.hidden, batch.labels, torch.ones(batch.num_tokens))[0])
    planned = head.planned_loss(state, batch)
    if planned is not None:
        return cast(Tensor, planned)
    sums: list[Tensor] = []
    apply_to_collection(head(state, batch), Tensor, lambda value: sums.append(value.float().sum()))
    return torch.stack(sums).sum()
