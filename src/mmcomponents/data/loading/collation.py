"""Collation of rendered samples into one pack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, Exact, ImageBatch, Layout, PackedBatch, Pairs, Steps, TokenType
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.media.images import TiledImage


@dataclass
class RenderedSample:
    """One segment of a pack.

    Attributes:
        chat: Token ids, labels and spans of the images.
        images: Tiled images, one for each of `chat.image_spans`.
        sample: Number of the sample.
        source: Number of its source.
        key: Shard and key.
        answer: "chosen" or "rejected" for the two segments of a pair, which follow each other; else "".
        reference: Stored log-probability of a pair's answer under the reference model, if any.
        verdicts: True verdict, 1 or 0, of each supervised token of a critic sample; None for other samples.
    """

    chat: RenderedChat
    images: list[TiledImage] = field(default_factory=list)
    sample: int = -1
    source: int = -1
    key: str = ""
    answer: Literal["", "chosen", "rejected"] = ""
    reference: float | None = None
    verdicts: list[int] | None = None


def token_grid(tokens_per_tile: int) -> tuple[int, int]:
    """Returns (rows, columns) of a tile's tokens: a square if the number allows it, else the nearest wider shape."""
    rows = next(rows for rows in range(math.isqrt(tokens_per_tile), 0, -1) if tokens_per_tile % rows == 0)
    return rows, tokens_per_tile // rows


def collate(
    samples: Sequence[RenderedSample], tokens_per_tile: int, pad_id: int, refused: Sequence[str] = ()
) -> PackedBatch:
    """Concatenates samples into a pack, one segment each, in the given order.

    Args:
        samples: The segments. An empty sequence gives a pack of one segment with a single padding token and no target.
        tokens_per_tile: Visual tokens per tile.
        pad_id: Id of the padding token.
        refused: Skipped samples, as "shard/key: reason".

    Raises:
        ValueError: The image tokens and the visual tokens of a sample differ in number; or only some of the pairs have
            references; or verdicts and targets of a sample differ in number.
    """
    if not samples:
        return _empty(pad_id, refused)
    rows, columns = token_grid(tokens_per_tile)
    numbers: dict[int, int] = {}  # id of the object → number of the image
    images: list[TiledImage] = []
    begins: list[int] = [0]  # first visual token of each image
    ids, labels, kinds, visual, image_id = [], [], [], [], []
    for sample in samples:
        chat = sample.chat
        length = len(chat.input_ids)
        if len(chat.labels) != length or len(chat.image_spans) != len(sample.images):
            raise ValueError(
                f"{sample.key}: {length} ids and {len(chat.labels)} labels, {len(chat.image_spans)} image spans for"
                f" {len(sample.images)} images"
            )
        target = np.full(length, IGNORE, np.int64)
        target[:-1] = chat.labels[1:]  # within the segment: the last token has no target
        kind, index, number = np.full(length, TokenType.TEXT), np.full(length, -1), np.full(length, -1)
        for (start, count), image in zip(chat.image_spans, sample.images, strict=True):
            if id(image) not in numbers:
                numbers[id(image)] = len(images)
                images.append(image)
                begins.append(begins[-1] + len(image.pixels) * tokens_per_tile)
            place = numbers[id(image)]
            visual_tokens = begins[place + 1] - begins[place]
            if count != visual_tokens:
                raise ValueError(
                    f"{sample.key}: {count} image tokens for {visual_tokens} visual tokens"
                    f" ({len(image.pixels)} tiles of {tokens_per_tile})"
                )
            span = slice(start, start + count)
            kind[span], number[span] = TokenType.IMAGE, place
            index[span] = np.arange(begins[place], begins[place + 1])
        ids.append(np.array(chat.input_ids, np.int64))
        labels.append(target)
        kinds.append(kind)
        visual.append(index)
        image_id.append(number)
    lengths = [len(part) for part in ids]
    layout = Layout(
        token_type=_join(kinds),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        max_seqlen=max(lengths),
        image_id=_join(image_id),
        grid=torch.tensor([[len(i.pixels), rows, columns] for i in images], dtype=torch.int64).view(-1, 3),
        delta_log2=_deltas(images),
    )
    return PackedBatch(
        input_ids=_join(ids),
        layout=layout,
        visual_index=_join(visual),
        labels=_join(labels),
        segment_sample=torch.tensor([s.sample for s in samples]),
        segment_source=torch.tensor([s.source for s in samples]),
        keys=[s.key for s in samples],
        images=_image_batch(images),
        pairs=_pairs(samples),
        steps=_steps(samples, labels),
        refused=list(refused),
    )


def _pairs(samples: Sequence[RenderedSample]) -> Pairs | None:
    chosen = [number for number, sample in enumerate(samples) if sample.answer == "chosen"]
    rejected = [number for number, sample in enumerate(samples) if sample.answer == "rejected"]
    if [number + 1 for number in chosen] != rejected:
        raise ValueError(
            f"chosen answers at segments {chosen}, rejected ones at {rejected}: each rejected answer must follow its"
            " chosen one"
        )
    if not chosen:
        return None
    stored = [(samples[a].reference, samples[b].reference) for a, b in zip(chosen, rejected, strict=True)]
    known = [(a, b) for a, b in stored if a is not None and b is not None]
    if known and len(known) != len(stored):
        raise ValueError(
            f"{len(known)} of {len(stored)} pairs have log-probabilities of a reference: all or none must have them"
        )
    reference = Exact(torch.tensor(known, dtype=torch.float32)) if known else None
    return Pairs(torch.tensor(chosen), torch.tensor(rejected), reference)


def _steps(samples: Sequence[RenderedSample], targets: Sequence[np.ndarray]) -> Steps | None:
    """Collects the scored steps of critic samples, in which each target is a verdict."""
    if all(sample.verdicts is None for sample in samples):
        return None
    score_at, segment, label, begin = list[int](), list[int](), list[int](), 0
    for number, (sample, target) in enumerate(zip(samples, targets, strict=True)):
        places = np.flatnonzero(target != IGNORE)
        verdicts = sample.verdicts or []
        if sample.verdicts is not None and len(places) != len(verdicts):
            raise ValueError(f"{sample.key}: {len(verdicts)} verdicts, {len(places)} targets")
        for place, verdict in zip(places.tolist(), verdicts, strict=False):
            score_at.append(begin + place)
            segment.append(number)
            label.append(verdict)
        begin += len(target)
    return steps_of(score_at, segment, label)


def steps_of(score_at: Sequence[int] = (), sample: Sequence[int] = (), label: Sequence[int] = ()) -> Steps:
    """Makes `Steps` of int64 tensors; without arguments, those of a pack without samples."""
    return Steps(*(torch.tensor(list(column), dtype=torch.int64) for column in (score_at, sample, label)))


def _join(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def _image_batch(images: Sequence[TiledImage]) -> ImageBatch | None:
    if not images:
        return None
    # numpy, since torch would use its threads, which the training step needs
    tile_image = np.repeat(np.arange(len(images)), [len(image.pixels) for image in images])
    pixels = np.concatenate([image.pixels.numpy() for image in images])
    return ImageBatch(torch.from_numpy(pixels), torch.from_numpy(tile_image))


def _deltas(images: Sequence[TiledImage]) -> Tensor | None:
    drawn = [image.delta_log2 for image in images if image.delta_log2 is not None]
    if not drawn:
        return None
    if len(drawn) != len(images):
        raise ValueError(f"{len(drawn)} of {len(images)} images have a delta of their own: all or none must have one")
    return torch.tensor(drawn, dtype=torch.int64)


def _empty(pad_id: int, refused: Sequence[str]) -> PackedBatch:
    return PackedBatch(
        input_ids=torch.tensor([pad_id]),
        layout=Layout(
            token_type=torch.tensor([int(TokenType.PAD)]),
            cu_seqlens=torch.tensor([0, 1], dtype=torch.int32),
            max_seqlen=1,
            image_id=torch.tensor([-1]),
            grid=torch.zeros(0, 3, dtype=torch.int64),
        ),
        visual_index=torch.tensor([-1]),
        labels=torch.tensor([IGNORE]),
        segment_sample=torch.tensor([-1]),
        segment_source=torch.tensor([-1]),
        keys=[""],
        refused=list(refused),
    )
