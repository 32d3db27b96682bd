"""Packs of preference pairs for the tiny model."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

import tiny
from mmcomponents.batch import Exact, ImageBatch, PackedBatch, Pairs, Steps
from mmcomponents.objectives import Reference
from mmcomponents.objectives.answers import answer_logps


def pair(prompt: tiny.Segment, chosen: int, rejected: int, seed: int = 0, shared: bool = True) -> PackedBatch:
    """Returns a pack of a prompt with two random answers; the answers share the images or have copies."""
    segments = [[*prompt, ("t", chosen)], [*prompt, ("t", rejected)]]
    batch = tiny.pack(*segments, seed=seed, targets=[chosen, rejected])
    _, start, end = batch.layout.cu_seqlens.tolist()
    length = end - start - rejected  # length of the prompt
    batch.input_ids[start : start + length] = batch.input_ids[:length]
    batch = replace(batch, pairs=Pairs(torch.tensor([0]), torch.tensor([1])), keys=[f"tiny/{seed}"] * 2)
    if batch.images is None:
        return batch
    pixels, owner = batch.images.pixels, batch.images.tile_image
    half = len(pixels) // 2
    if not shared:
        pixels[half:] = pixels[:half]
        return batch
    index, number = batch.visual_index.clone(), batch.layout.image_id.clone()
    index[start : start + length], number[start : start + length] = index[:length], number[:length]
    layout = replace(batch.layout, image_id=number, grid=batch.layout.grid[: len(batch.layout.grid) // 2])
    return replace(batch, visual_index=index, layout=layout, images=ImageBatch(pixels[:half], owner[:half]))


def no_pair(seed: int = 0, tokens: int = 5) -> PackedBatch:
    """Returns the pack of a rank without data; its only segment is not a sample."""
    return replace(tiny.pack([("t", tokens)], seed=seed), segment_sample=torch.tensor([-1]))


def join(*packs: PackedBatch) -> PackedBatch:
    """Joins several packs, with their steps and pairs, with or without stored references."""
    score_at, sample, label = [], [], []
    visual = images = segments = tokens = 0
    index, number, boundaries, tiles, owners, chosen, rejected, stored = [], [], [0], [], [], [], [], []
    for p in packs:
        index.append(torch.where(p.visual_index >= 0, p.visual_index + visual, -1))
        number.append(torch.where(p.layout.image_id >= 0, p.layout.image_id + images, -1))
        boundaries += [tokens + b for b in p.layout.cu_seqlens[1:].tolist()]
        if p.images is not None:
            tiles.append(p.images.pixels)
            owners.append(p.images.tile_image + images)
            visual += len(p.images.pixels) * tiny.VISUAL_TOKENS
        if p.pairs is not None:
            chosen.append(p.pairs.chosen + segments)
            rejected.append(p.pairs.rejected + segments)
            stored += [] if p.pairs.reference_logps is None else [p.pairs.reference_logps.tensor]
        if p.steps is not None:
            score_at.append(p.steps.score_at + tokens)
            sample.append(p.steps.sample + segments)
            label.append(p.steps.label)
        images, segments, tokens = images + len(p.layout.grid), segments + p.num_segments, tokens + p.num_tokens
    pairs = None
    if chosen:
        pairs = Pairs(torch.cat(chosen), torch.cat(rejected), Exact(torch.cat(stored)) if stored else None)
    layout = replace(
        packs[0].layout,
        token_type=torch.cat([p.layout.token_type for p in packs]),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32),
        max_seqlen=max(b - a for a, b in pairwise(boundaries)),
        image_id=torch.cat(number),
        grid=torch.cat([p.layout.grid for p in packs]),
    )
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


def with_reference(batch: PackedBatch, seed: int = 5) -> PackedBatch:
    """Returns the pack with stored log-probabilities of another tiny model, so that rewards are not zero."""
    if batch.pairs is None:
        return batch
    with torch.no_grad():
        stored = answer_logps(tiny.model(seed), batch).float()
    return replace(batch, pairs=replace(batch.pairs, reference_logps=Exact(stored)))


class Other(Reference):
    """Reference with other weights than the policy, without preparation."""

    def __init__(self, seed: int = 5) -> None:
        self.model = tiny.model(seed)

    @torch.no_grad()
    def logps(self, model: object, batch: PackedBatch, head: str) -> torch.Tensor:
        return answer_logps(self.model, batch, head)
