"""A tiny InternVL3 and packs for it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, TokenType
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.vision import InternViT

VOCAB, WIDTH, VISION, HEAD = 64, 32, 24, 8
TILE, PATCH, VISUAL_TOKENS = 16, 4, 4
"""A tile of 16 pixels has 4 x 4 patches, which are merged into 4 visual tokens."""
IMAGE_TOKEN = 60


def vision(**changes: Any) -> InternViT:
    settings: dict[str, Any] = {
        "hidden_size": VISION,
        "num_layers": 2,
        "num_heads": 3,
        "intermediate_size": 40,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    return InternViT(**(settings | changes))


def backbone(**changes: Any) -> DecoderLM:
    settings: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 48,
    }
    return DecoderLM(**(settings | changes))


def model(seed: int = 0, **parts: Any) -> MultimodalModel:
    """Returns the tiny InternVL3 in evaluation mode, with some components replaced."""
    default = {
        "vision": vision,
        "merger": lambda: PixelUnshuffle(VISION),
        "projector": lambda: MLPProjector(4 * VISION, WIDTH),
        "embedder": lambda: TokenEmbedder(VOCAB, WIDTH),
        "position": lambda: V2PE(HEAD, delta=0.25),
        "backbone": backbone,
        "heads": lambda: {"lm": LMHead(WIDTH, VOCAB)},
    }
    built = {name: make() for name, make in default.items() if name not in parts} | parts
    composed = MultimodalModel(**built, image_token_id=IMAGE_TOKEN)
    composed.init_weights(seed)
    # Initial weights are so small that an error could be below the tolerance.
    with torch.no_grad():
        for p in composed.parameters():
            if p.ndim >= 2:
                p.mul_(2.0)
    return composed.eval()


Segment = list[tuple[str, int]]
"""Pieces of a segment: ("t", n) for n text tokens, ("i", n) for an image of n tiles."""


def pack(
    *segments: Segment,
    seed: int = 0,
    targets: list[int] | None = None,
    delta_log2: list[int] | None = None,
    tile: int = TILE,
    rows: int = VISUAL_TOKENS,
) -> PackedBatch:
    """Packs segments of random text; the last `targets[s]` text tokens of segment s are targets (default: half)."""
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
                ids += [IMAGE_TOKEN] * (n * rows)
                types += [TokenType.IMAGE] * (n * rows)
                images += [count] * (n * rows)
                tiles += [count] * n
                count += 1
        places = [i for i in range(start + 1, len(ids)) if types[i] == TokenType.TEXT]
        wanted = len(places) // 2 if targets is None else targets[s]
        chosen = set(places[len(places) - wanted :])
        labels += [ids[i + 1] if i + 1 in chosen else IGNORE for i in range(start, len(ids))]
        boundaries.append(len(ids))
    types_ = torch.tensor(types)
    visual = types_ == TokenType.IMAGE
    lengths = [b - a for a, b in pairwise(boundaries)]
    return PackedBatch(
        input_ids=torch.tensor(ids),
        layout=Layout(
            token_type=types_,
            cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
            max_seqlen=max(lengths),
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
    """Returns the segments of a pack, each as a pack of its own."""
    out = []
    for s, (a, b) in enumerate(pairwise(batch.layout.cu_seqlens.tolist())):
        out.append(_cut(batch, s, a, b))
    return out


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


def logits(composed: MultimodalModel, batch: PackedBatch) -> Tensor:
    """Returns the logits of all positions, `[T, vocab]`."""
    out: Tensor = composed(batch, read=lambda heads, state: heads["lm"](state, batch))
    return out
