"""Packs with one sample each, of the kinds that objectives learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from mmcomponents.batch import IGNORE, Exact, ImageBatch, PackedBatch, Pairs, Steps, TokenType
from mmcomponents.extras import Actions, Boxes, DrawnBoxes, Pictures, References
from mmcomponents.testing.packs import Segment, pack

VERDICTS = (7, 3)
"""Ids of the positive and the negative token in `step_packs`."""


class MakePacks(Protocol):
    """Makes packs of one sample each: some with images, some without, with different numbers of targets."""

    def __call__(self, seed: int, *, tile: int, tokens_per_tile: int) -> Sequence[PackedBatch]:
        """Returns the packs of a seed.

        Args:
            seed: Equal seeds give equal packs, other seeds others.
            tile: Side of a tile in pixels.
            tokens_per_tile: Number of visual tokens per tile.
        """
        ...


def text_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs with next-token targets: three tiles, two texts of one length, two images, a single token.

    The number of tiles before an image is odd in a pack of all samples and even in its own.
    """
    segments: tuple[Segment, ...] = (
        [("t", 5), ("i", 3), ("t", 4 + seed % 3)],
        [("t", 7 + seed % 2)],
        [("t", 7 + seed % 2)],
        [("t", 2), ("i", 1), ("t", 3), ("i", 1), ("t", 6)],
        [("t", 1)],
    )
    return [
        pack(pieces, seed=10 * seed + n, targets=[count], tile=tile, tokens_per_tile=tokens_per_tile)
        for n, (pieces, count) in enumerate(zip(segments, (1 + seed % 4, 3, 2 + seed % 3, 4, 0), strict=True))
    ]


def preference_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs of a preference pair with log-probabilities of a reference model, and one without a pair.

    For every third seed, no text pack has a pair.
    """
    images: tuple[Segment, ...] = ([("t", 5), ("i", 2), ("t", 4)], [("t", 2), ("i", 1), ("t", 3)])
    prompts: tuple[Segment, ...] = images if seed % 3 == 1 else (*images, [("t", 7)])
    pairs = [
        pair_pack(prompt, 3 + n, 6 - n, seed=10 * seed + n, tile=tile, tokens_per_tile=tokens_per_tile)
        for n, prompt in enumerate(prompts)
    ]
    return [*map(_with_reference, pairs), blank_pack(seed)]


def step_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs with scored steps, some of them without any; the verdicts are the tokens `VERDICTS`.

    For every third seed, no text pack has steps.
    """
    packs = text_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile)
    steps = (3 + seed % 2, *((0, 0) if seed % 3 == 1 else (2, 3)), 0, 0)
    return [with_steps(p, [count], seed=10 * seed + n) for n, (p, count) in enumerate(zip(packs, steps, strict=True))]


def blank_pack(seed: int = 0, tokens: int = 5) -> PackedBatch:
    """Returns the pack of a rank without data; its only segment is not a sample."""
    return replace(pack([("t", tokens)], seed=seed, targets=[0]), segment_sample=torch.tensor([-1]))


def image_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs without tokens: of one tile, of three tiles, of two images, of a tile, and one without images.

    They are for models without a language side.
    """
    packs = []
    for n, images in enumerate(([1], [3], [1, 1], [1], [])):
        pieces = [("i", tiles) for tiles in images]
        images_of = pack(pieces, seed=10 * seed + n, tile=tile, tokens_per_tile=tokens_per_tile).images
        empty = pack([], seed=seed)
        sample = empty.segment_sample if images else empty.segment_sample - 1  # a segment without images is no sample
        packs.append(replace(empty, images=images_of, segment_sample=sample))
    return packs


def picture_packs(
    seed: int, *, tile: int, tokens_per_tile: int, patch_size: int = 4, codebook_size: int = 32
) -> list[PackedBatch]:
    """Returns the packs of `text_packs` with ids of an image tokenizer in place of pixels; some pictures are made.

    The image of the first pack and the second one of the fourth are to be made (`IMAGE_GEN`), the others are given. For
    every third seed, none is to be made.

    Args:
        seed: Equal seeds give equal packs, other seeds others.
        tile: Side of a tile in pixels.
        tokens_per_tile: Number of visual tokens per tile.
        patch_size: Side in pixels of the patch of an id.
        codebook_size: Number of ids.
    """
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number, batch in enumerate(text_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile)):
        if batch.images is None:
            found.append(batch)
            continue
        shape = (batch.images.num_tiles, tile // patch_size, tile // patch_size)
        ids = torch.randint(codebook_size, shape, generator=draw)
        layout, made = batch.layout, batch.layout.image_id == (0 if number == 0 else 1)
        kind = layout.token_type.masked_fill(made & (seed % 3 != 1), int(TokenType.IMAGE_GEN))
        images = ImageBatch(None, batch.images.tile_image, vq_ids=ids)
        found.append(replace(batch, images=images, layout=replace(layout, token_type=kind)))
    return found


def box_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns the packs of `image_packs` with true boxes of three classes in their tiles: 2, 3, none, 1 and none."""
    draw = torch.Generator().manual_seed(seed)
    packs = []
    for batch, counts in zip(
        image_packs(seed, tile=tile, tokens_per_tile=tokens_per_tile), ([2], [3, 0, 1], [0, 0], [1], []), strict=True
    ):
        where = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
        size = 0.1 + 0.3 * torch.rand(len(where), 2, generator=draw)
        centre = size / 2 + (1 - size) * torch.rand(len(where), 2, generator=draw)
        label = torch.randint(3, (len(where),), generator=draw)
        boxes = Boxes(Exact(torch.cat((centre, size), dim=1)), label, where, torch.zeros_like(where))
        packs.append(replace(batch, extras={"boxes": boxes}))
    return packs


def action_packs(seed: int, *, tile: int, tokens_per_tile: int) -> list[PackedBatch]:
    """Returns packs of observations with four actions of two values; some have no target, one pack no actions.

    The texts, the tiles and the numbers of targets differ; an observation has no image.
    """
    tail: Segment = [("n", 1), ("a", 4)]
    observed: tuple[Segment, ...] = ([("x", 4), ("i", 1)], [("x", 3 + seed % 2)], [("x", 5), ("i", 2), ("i", 1)])
    draw = torch.Generator().manual_seed(seed)
    packs = []
    for n, pieces in enumerate(observed):
        made = pack([*pieces, *tail], seed=10 * seed + n, targets=[0], tile=tile, tokens_per_tile=tokens_per_tile)
        values = Exact(2 * torch.rand(4, 2, generator=draw) - 1)
        packs.append(replace(made, extras={"actions": Actions(values, torch.arange(4) < 4 - n)}))
    return [*packs, replace(blank_pack(seed), extras={"actions": Actions.none(2)})]


def reasoned_packs(
    seed: int, *, tile: int, tokens_per_tile: int, num_queries: int = 4, picture_size: int = 16
) -> list[PackedBatch]:
    """Returns packs of texts with queries of pictures after them, of which one edits an image; some have no picture.

    The packs also serve as prompts: that with an image has its reference.

    The pictures have two boxes, one and none. For every third seed, no text pack has a picture.

    Args:
        seed: Equal seeds give equal packs, other seeds others.
        tile: Side of a tile in pixels.
        tokens_per_tile: Number of visual tokens per tile.
        num_queries: Number of queries of a picture.
        picture_size: Side of a picture in pixels.
    """
    asked: tuple[Segment, ...] = ([("t", 5), ("i", 1), ("t", 6)], [("t", 7 + seed % 2)], [("t", 9)], [("t", 4)])
    shown = (2, None, None, None) if seed % 3 == 1 else (2, 1, 0, None)
    draw = torch.Generator().manual_seed(seed)
    packs = []
    for n, (pieces, boxes) in enumerate(zip(asked, shown, strict=True)):
        queries = [] if boxes is None else [("q", num_queries), ("t", 1)]
        made = pack(
            [*pieces, *queries], seed=10 * seed + n, targets=[3], tile=tile, tokens_per_tile=tokens_per_tile
        )  # fmt: skip
        count = 0 if boxes is None else 1
        shape = (count, 3, picture_size, picture_size)
        target = Exact(2 * torch.rand(shape, generator=draw) - 1)
        reference = Exact(2 * torch.rand(shape, generator=draw) - 1 if n == 0 else torch.full(shape, -1.0))
        corner = torch.rand(boxes or 0, 2, generator=draw) / 2
        box = Exact(torch.cat((corner, corner + 0.4), dim=1))
        drawn = DrawnBoxes(box, Exact(torch.rand(boxes or 0, 3, generator=draw)), torch.zeros(boxes or 0).long())
        asked_with = References(reference, torch.zeros(count).long()) if n == 0 else References.of([], [], picture_size)
        extras = {"pictures": Pictures(target, reference), "drawn_boxes": drawn, "references": asked_with}
        packs.append(replace(made, extras=extras))
    return packs


def pair_pack(
    prompt: Segment,
    chosen: int,
    rejected: int,
    seed: int = 0,
    shared: bool = True,
    tile: int = 16,
    tokens_per_tile: int = 4,
) -> PackedBatch:
    """Returns a pack of a prompt with two random answers.

    Args:
        prompt: Pieces of the prompt.
        chosen: Number of tokens of the chosen answer.
        rejected: Number of tokens of the rejected answer.
        seed: Seed of tokens and pixels.
        shared: Whether both answers use the same visual tokens. False: each has a copy of the images.
        tile: Side of a tile in pixels.
        tokens_per_tile: Number of visual tokens per tile.
    """
    segments = [[*prompt, ("t", chosen)], [*prompt, ("t", rejected)]]
    batch = pack(*segments, seed=seed, targets=[chosen, rejected], tile=tile, tokens_per_tile=tokens_per_tile)
    _, start, end = batch.layout.cu_seqlens.tolist()
    length = end - start - rejected  # of the prompt
    batch.input_ids[start : start + length] = batch.input_ids[:length]
    batch = replace(batch, pairs=Pairs(torch.tensor([0]), torch.tensor([1])), keys=[f"tiny/{seed}"] * 2)
    if batch.images is None:
        return batch
    pixels, owner = batch.images.require_pixels(), batch.images.tile_image
    half = len(pixels) // 2
    if not shared:
        pixels[half:] = pixels[:half]
        return batch
    index, number = batch.visual_index.clone(), batch.layout.image_id.clone()
    index[start : start + length], number[start : start + length] = index[:length], number[:length]
    layout = replace(batch.layout, image_id=number, grid=batch.layout.grid[: len(batch.layout.grid) // 2])
    return replace(batch, visual_index=index, layout=layout, images=ImageBatch(pixels[:half], owner[:half]))


def with_steps(batch: PackedBatch, steps: Sequence[int], seed: int = 0) -> PackedBatch:
    """Returns a pack with steps at the last `steps[s]` positions of each segment, with random verdicts."""
    draw = torch.Generator().manual_seed(seed)
    ends = batch.layout.cu_seqlens.tolist()[1:]
    score_at = [end - count + n for end, count in zip(ends, steps, strict=True) for n in range(count)]
    sample = [s for s, count in enumerate(steps) for _ in range(count)]
    label = torch.randint(2, (len(score_at),), generator=draw)
    labels = torch.full_like(batch.labels, IGNORE)
    labels[score_at] = torch.where(label == 1, *VERDICTS)
    where = torch.tensor(score_at, dtype=torch.long)
    return replace(batch, labels=labels, steps=Steps(where, torch.tensor(sample, dtype=torch.long), label))


def _with_reference(batch: PackedBatch) -> PackedBatch:
    """Returns the pack with log-probabilities near those of random weights, so that rewards are not zero."""
    assert batch.pairs is not None
    targets = torch.stack([(part >= 0).sum() for part in batch.labels.split(batch.layout.cu_seqlens.diff().tolist())])
    logps = -4.3 * targets[None].float()
    return replace(batch, pairs=replace(batch.pairs, reference_logps=Exact(logps)))
