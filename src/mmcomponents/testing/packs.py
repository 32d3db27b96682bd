"""Packs of random text and images for small models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, Pairs, Steps, TokenType
from mmcomponents.extras import Extra, Place

VOCAB_SIZE, IMAGE_TOKEN = 64, 60
"""Vocabulary size of the compositions in `mmcomponents.testing`, and the token id of a visual token's placeholder."""

Segment = Sequence[tuple[str, int]]
"""Pieces of a segment: ("t", n) for n text tokens, ("i", n) for an image of n tiles; for policies ("x", n) for n tokens
of external text, ("n", 1) for a noise level and ("a", n) for n actions; ("q", n) for the n queries of a picture."""

_TYPES = {
    "t": TokenType.TEXT,
    "x": TokenType.EXTERNAL,
    "n": TokenType.TIME,
    "a": TokenType.ACTION,
    "q": TokenType.QUERY,
}


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
        segments: Numbers of tokens and tiles of each segment.
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
            if kind in _TYPES:
                drawn = torch.randint(1, IMAGE_TOKEN, (n,), generator=draw).tolist()
                ids += range(n) if kind == "q" else drawn
                types += [_TYPES[kind]] * n
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
    types_ = torch.tensor(types, dtype=torch.long)
    visual = types_ == TokenType.IMAGE
    return PackedBatch(
        input_ids=torch.tensor(ids, dtype=torch.long),
        layout=Layout(
            token_type=types_,
            cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
            max_seqlen=max(b - a for a, b in pairwise(boundaries)),
            image_id=torch.tensor(images, dtype=torch.long),
            grid=torch.ones(count, 3, dtype=torch.long),
            delta_log2=None if delta_log2 is None else torch.tensor(delta_log2),
        ),
        visual_index=torch.where(visual, visual.cumsum(0) - 1, -1),
        labels=torch.tensor(labels, dtype=torch.long),
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
        kept = sorted(set(image_id[image_id >= 0].tolist()))
        images = _chosen_tiles(_images(batch), torch.tensor([int(t) in kept for t in _images(batch).tile_image]))
        new = {old: i for i, old in enumerate(kept)}
        images = replace(images, tile_image=torch.tensor([new[int(t)] for t in images.tile_image]))
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
    """Joins packs to one, with their pairs, steps and extras. Packs of samples and packs without any may be mixed."""
    visual = images = segments = tokens = tiles = 0
    index, number, boundaries, places = [], [], [0], []
    for p in packs:
        index.append(torch.where(p.visual_index >= 0, p.visual_index + visual, -1))
        number.append(torch.where(p.layout.image_id >= 0, p.layout.image_id + images, -1))
        boundaries += [tokens + b for b in p.layout.cu_seqlens[1:].tolist()]
        own_tiles = 0 if p.images is None else p.images.num_tiles
        own_images = max(len(p.layout.grid), 0 if not own_tiles else int(_images(p).tile_image.max()) + 1)
        image_numbers = torch.arange(images, images + own_images)
        tile_numbers = torch.arange(tiles, tiles + own_tiles)
        places.append(Place(segments, tokens, image_numbers, tile_numbers, p.num_tokens))
        visual += int(p.visual_index.max()) + 1 if p.num_tokens else 0
        images, tiles = images + own_images, tiles + own_tiles
        segments, tokens = segments + p.num_segments, tokens + p.num_tokens
    deltas = [p.layout.delta_log2 for p in packs if p.layout.delta_log2 is not None]
    copies = [torch.zeros(p.num_segments, dtype=torch.long) if (c := p.segment_copy) is None else c for p in packs]
    named = [
        {**p.extras, **{name: value for name in ("pairs", "steps") if (value := getattr(p, name)) is not None}}
        for p in packs
    ]
    extras = {name: _joined(name, named, places) for name in dict.fromkeys(name for own in named for name in own)}
    layout = Layout(
        token_type=torch.cat([p.layout.token_type for p in packs]),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
        max_seqlen=max(b - a for a, b in pairwise(boundaries)),
        image_id=torch.cat(number),
        grid=torch.cat([p.layout.grid for p in packs]),
        delta_log2=torch.cat(deltas) if deltas else None,
    )
    return PackedBatch(
        input_ids=torch.cat([p.input_ids for p in packs]),
        layout=layout,
        visual_index=torch.cat(index),
        labels=torch.cat([p.labels for p in packs]),
        segment_sample=torch.cat([p.segment_sample for p in packs]),
        segment_source=torch.zeros(segments, dtype=torch.long),
        keys=[key for p in packs for key in p.keys],
        images=_joined_images(packs, places),
        pairs=cast("Pairs | None", extras.pop("pairs", None)),
        steps=cast("Steps | None", extras.pop("steps", None)),
        extras=extras,
        seed=packs[0].seed,
        epoch=packs[0].epoch,
        segment_copy=torch.cat(copies) if any(p.segment_copy is not None for p in packs) else None,
    )


def _joined(name: str, named: Sequence[Mapping[str, Extra]], places: Sequence[Place]) -> Extra:
    parts = [own[name].placed(place) for own, place in zip(named, places, strict=True) if name in own]
    return type(parts[0]).join(parts)


def _joined_images(packs: Sequence[PackedBatch], places: Sequence[Place]) -> ImageBatch | None:
    owned = [(p.images, place) for p, place in zip(packs, places, strict=True) if p.images is not None]
    if not owned:
        return None
    values: dict[str, Any] = {}
    for item in fields(ImageBatch):
        parts = [getattr(images, item.name) for images, _ in owned]
        if item.name == "tile_image":
            parts = [place.images[images.tile_image] for images, place in owned]
        values[item.name] = None if any(part is None for part in parts) else torch.cat(parts)
    return ImageBatch(**values)


def _images(batch: PackedBatch) -> ImageBatch:
    assert batch.images is not None
    return batch.images


def _chosen_tiles(images: ImageBatch, tiles: Tensor) -> ImageBatch:
    values: dict[str, Any] = {item.name: getattr(images, item.name) for item in fields(images)}
    for name, value in values.items():
        values[name] = None if value is None else value[tiles]
    return ImageBatch(**values)
