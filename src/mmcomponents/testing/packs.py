"""Packs of random text and images for small models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from mmcomponents.batch import IGNORE, Exact, ImageBatch, Layout, PackedBatch, Pairs, Steps, TokenType

VOCAB_SIZE, IMAGE_TOKEN = 64, 60
"""Vocabulary size of the compositions in `mmcomponents.testing`, and the token id of a visual token's placeholder."""

Segment = Sequence[tuple[str, int]]
"""Pieces of a segment: ("t", n) for n text tokens, ("i", n) for an image of n tiles."""


def pack(
    *segments: Segment,
    seed: int = 0,
    targets: Sequence[int] | None = None,
    delta_log2: list[int] | None = None,
    tile: int = 16,
    tokens_per_tile: int = 4,
) -> PackedBatch:
    """Packs segments of random tokens and tiles.

    Args:
        segments: The segments.
        seed: Seed of tokens and pixels.
        targets: Number of targets of each segment, its last text tokens. Default: half of its text tokens.
        delta_log2: See `Layout`.
        tile: Side of a tile in pixels.
        tokens_per_tile: Number of visual tokens per tile.
    """
    draw = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    labels: list[int] = []
    images: list[int] = []
    types: list[int] = []
    boundaries, tiles, count = [0], [], 0
    for s, pieces in enumerate(segments):
        start = len(ids)
        for kind, n in pieces:
            if kind == "t":
                ids += torch.randint(1, IMAGE_TOKEN, (n,), generator=draw).tolist()
                types += [TokenType.TEXT] * n
                images += [-1] * n
            else:
                ids += [IMAGE_TOKEN] * (n * tokens_per_tile)
                types += [TokenType.IMAGE] * (n * tokens_per_tile)
                images += [count] * (n * tokens_per_tile)
                tiles += [count] * n
                count += 1
        places = [i for i in range(start + 1, len(ids)) if types[i] == TokenType.TEXT]
        wanted = len(places) // 2 if targets is None else targets[s]
        chosen = set(places[len(places) - wanted :])
        labels += [ids[i + 1] if i + 1 in chosen else IGNORE for i in range(start, len(ids))]
        boundaries.append(len(ids))
    types_ = torch.tensor(types)
    visual = types_ == TokenType.IMAGE
    return PackedBatch(
        input_ids=torch.tensor(ids),
        layout=Layout(
            token_type=types_,
            cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
            max_seqlen=max(b - a for a, b in pairwise(boundaries)),
            image_id=torch.tensor(images),
            grid=torch.ones(count, 3, dtype=torch.long),
            delta_log2=None if delta_log2 is None else torch.tensor(delta_log2),
        ),
        visual_index=torch.where(visual, visual.cumsum(0) - 1, -1),
        labels=torch.tensor(labels),
        segment_sample=torch.arange(len(segments)),
        segment_source=torch.zeros(len(segments), dtype=torch.long),
        keys=[f"tiny/{s}" for s in range(len(segments))],
        images=ImageBatch(torch.randn(len(tiles), 3, tile, tile, generator=draw), torch.tensor(tiles))
        if tiles
        else None,
    )


def separate(batch: PackedBatch) -> list[PackedBatch]:
    """Returns the segments of a pack without pairs and steps, each as a pack of its own."""
    return [_cut(batch, s, a, b) for s, (a, b) in enumerate(pairwise(batch.layout.cu_seqlens.tolist()))]


def _cut(batch: PackedBatch, s: int, a: int, b: int) -> PackedBatch:
    layout, index = batch.layout, batch.visual_index[a:b]
    image_id = layout.image_id[a:b]
    images, grid, delta = None, layout.grid[:0], layout.delta_log2
    if bool((index >= 0).any()):
        assert batch.images is not None
        kept = sorted(set(image_id[image_id >= 0].tolist()))
        tiles = torch.tensor([int(t) in kept for t in batch.images.tile_image])
        new = {old: i for i, old in enumerate(kept)}
        images = ImageBatch(
            batch.images.pixels[tiles], torch.tensor([new[int(t)] for t in batch.images.tile_image[tiles]])
        )
        image_id = torch.tensor([new.get(int(i), -1) for i in image_id])
        index = torch.where(index >= 0, index - index[index >= 0].min(), -1)
        grid, delta = layout.grid[kept], None if delta is None else delta[kept]
    return PackedBatch(
        input_ids=batch.input_ids[a:b],
        layout=Layout(
            layout.token_type[a:b], torch.tensor([0, b - a], dtype=torch.int32), b - a, image_id, grid, delta
        ),
        visual_index=index,
        labels=batch.labels[a:b],
        segment_sample=batch.segment_sample[s : s + 1],
        segment_source=batch.segment_source[s : s + 1],
        keys=[batch.keys[s]],
        images=images,
    )


def join(*packs: PackedBatch) -> PackedBatch:
    """Joins packs to one, with their pairs and steps. Packs of samples and packs without any may be mixed."""
    visual = images = segments = tokens = 0
    index, number, boundaries, tiles, owners = [], [], [0], [], []
    chosen, rejected, stored, score_at, sample, label = [], [], [], [], [], []
    for p in packs:
        index.append(torch.where(p.visual_index >= 0, p.visual_index + visual, -1))
        number.append(torch.where(p.layout.image_id >= 0, p.layout.image_id + images, -1))
        boundaries += [tokens + b for b in p.layout.cu_seqlens[1:].tolist()]
        if p.images is not None:
            tiles.append(p.images.pixels)
            owners.append(p.images.tile_image + images)
            visual += int(p.visual_index.max()) + 1
        if p.pairs is not None:
            chosen.append(p.pairs.chosen + segments)
            rejected.append(p.pairs.rejected + segments)
            stored += [] if p.pairs.reference_logps is None else [p.pairs.reference_logps.tensor]
        if p.steps is not None:
            score_at.append(p.steps.score_at + tokens)
            sample.append(p.steps.sample + segments)
            label.append(p.steps.label)
        images, segments, tokens = images + len(p.layout.grid), segments + p.num_segments, tokens + p.num_tokens
    deltas = [p.layout.delta_log2 for p in packs if p.layout.delta_log2 is not None]
    layout = Layout(
        token_type=torch.cat([p.layout.token_type for p in packs]),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
        max_seqlen=max(b - a for a, b in pairwise(boundaries)),
        image_id=torch.cat(number),
        grid=torch.cat([p.layout.grid for p in packs]),
        delta_log2=torch.cat(deltas) if deltas else None,
    )
    pairs = None
    if chosen:
        pairs = Pairs(torch.cat(chosen), torch.cat(rejected), Exact(torch.cat(stored)) if stored else None)
    return PackedBatch(
        input_ids=torch.cat([p.input_ids for p in packs]),
        layout=layout,
        visual_index=torch.cat(index),
        labels=torch.cat([p.labels for p in packs]),
        segment_sample=torch.where(torch.cat([p.segment_sample for p in packs]) < 0, -1, torch.arange(segments)),
        segment_source=torch.zeros(segments, dtype=torch.long),
        keys=[key for p in packs for key in p.keys],
        images=ImageBatch(torch.cat(tiles), torch.cat(owners)) if tiles else None,
        pairs=pairs,
        steps=Steps(torch.cat(score_at), torch.cat(sample), torch.cat(label)) if score_at else None,
    )
