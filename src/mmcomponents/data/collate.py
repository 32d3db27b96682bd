"""From rendered samples to one pack: concatenation, and the integers that say what is where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, Exact, ImageBatch, Layout, PackedBatch, Pairs, Steps, TokenType
from mmcomponents.data.chat import RenderedChat


@dataclass(eq=False)
class TiledImage:
    """An image, ready for the encoder. Samples that hold the same object share its rows of the visual table.

    Attributes:
        pixels: `[n, 3, H, W]` fp32 tiles.
        delta_log2: V2PE's k for this image; None: the position part's own.
    """

    pixels: Tensor
    delta_log2: int | None = None


@dataclass
class RenderedSample:
    """One segment of a pack.

    Attributes:
        chat: Token ids, labels and places of the images.
        images: As many as `chat.image_spans`.
        sample: Number of the sample.
        source: Number of its source.
        key: Shard and key.
        answer: "chosen" or "rejected", one behind the other, for the two segments of a pair.
        reference: Of an answer of a pair, its log-probability under the reference, where that is stored.
        verdicts: Of a critic sample, 1 or 0 for each supervised token: what the verdict there really is.
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
    """Rows and columns of a tile's tokens: a square where the number allows it, else the nearest wider shape."""
    rows = next(rows for rows in range(math.isqrt(tokens_per_tile), 0, -1) if tokens_per_tile % rows == 0)
    return rows, tokens_per_tile // rows


def collate(
    samples: Sequence[RenderedSample], tokens_per_tile: int, pad_id: int, refused: Sequence[str] = ()
) -> PackedBatch:
    """Joins samples to a pack, one segment each, in the order given.

    Args:
        samples: None at all gives a pack of one segment with a single PAD token and no target.
        tokens_per_tile: Rows of the visual table that a tile becomes.
        pad_id: Token id of that PAD.
        refused: Samples that were left out, as "shard/key: reason".

    Raises:
        ValueError: The image tokens of a sample are not as many as the rows of its images; or some pairs have
            references and others have none; or verdicts and targets of a sample differ in number.
    """
    if not samples:
        return _empty(pad_id, refused)
    rows, columns = token_grid(tokens_per_tile)
    images: dict[int, int] = {}  # id of the object → number of the image
    table: list[TiledImage] = []
    first_row: list[int] = [0]
    ids, labels, kinds, visual, image_id = [], [], [], [], []
    for sample in samples:
        chat = sample.chat
        length = len(chat.input_ids)
        if len(chat.labels) != length or len(chat.image_spans) != len(sample.images):
            raise ValueError(
                f"{sample.key}: {length} ids and {len(chat.labels)} labels, {len(chat.image_spans)} places for"
                f" {len(sample.images)} images"
            )
        target = np.full(length, IGNORE, np.int64)
        target[:-1] = chat.labels[1:]  # inside the segment: its last token predicts nothing
        kind, row, number = np.full(length, TokenType.TEXT), np.full(length, -1), np.full(length, -1)
        for (start, count), image in zip(chat.image_spans, sample.images, strict=True):
            if id(image) not in images:
                images[id(image)] = len(table)
                table.append(image)
                first_row.append(first_row[-1] + len(image.pixels) * tokens_per_tile)
            place = images[id(image)]
            visual_rows = first_row[place + 1] - first_row[place]
            if count != visual_rows:
                raise ValueError(
                    f"{sample.key}: {count} image tokens for {visual_rows} visual rows"
                    f" ({len(image.pixels)} tiles of {tokens_per_tile})"
                )
            span = slice(start, start + count)
            kind[span], number[span] = TokenType.IMAGE, place
            row[span] = np.arange(first_row[place], first_row[place + 1])
        ids.append(np.array(chat.input_ids, np.int64))
        labels.append(target)
        kinds.append(kind)
        visual.append(row)
        image_id.append(number)
    lengths = [len(part) for part in ids]
    layout = Layout(
        token_type=_join(kinds),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        max_seqlen=max(lengths),
        image_id=_join(image_id),
        grid=torch.tensor([[len(i.pixels), rows, columns] for i in table], dtype=torch.int64).view(-1, 3),
        delta_log2=_deltas(table),
    )
    return PackedBatch(
        input_ids=_join(ids),
        layout=layout,
        visual_index=_join(visual),
        labels=_join(labels),
        segment_sample=torch.tensor([s.sample for s in samples]),
        segment_source=torch.tensor([s.source for s in samples]),
        keys=[s.key for s in samples],
        images=_image_batch(table),
        pairs=_pairs(samples),
        steps=_steps(samples, labels),
        refused=list(refused),
    )


def _pairs(samples: Sequence[RenderedSample]) -> Pairs | None:
    chosen = [number for number, sample in enumerate(samples) if sample.answer == "chosen"]
    rejected = [number for number, sample in enumerate(samples) if sample.answer == "rejected"]
    if [number + 1 for number in chosen] != rejected:
        raise ValueError(f"chosen answers at segments {chosen}, rejected ones at {rejected}: each pair side by side")
    if not chosen:
        return None
    stored = [(samples[a].reference, samples[b].reference) for a, b in zip(chosen, rejected, strict=True)]
    known = [(a, b) for a, b in stored if a is not None and b is not None]
    if known and len(known) != len(stored):
        raise ValueError(f"{len(known)} of {len(stored)} pairs have log-probabilities of a reference: all or none")
    reference = Exact(torch.tensor(known, dtype=torch.float32)) if known else None
    return Pairs(torch.tensor(chosen), torch.tensor(rejected), reference)


def _steps(samples: Sequence[RenderedSample], targets: Sequence[np.ndarray]) -> Steps | None:
    """The scored steps of critic samples: each of their targets is a verdict."""
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
    """Steps as int64 tensors; none at all for the pack without samples."""
    return Steps(*(torch.tensor(list(column), dtype=torch.int64) for column in (score_at, sample, label)))


def _join(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def _image_batch(table: Sequence[TiledImage]) -> ImageBatch | None:
    if not table:
        return None
    # numpy: torch would wake its threads for this, beside those of the training step
    tile_image = np.repeat(np.arange(len(table)), [len(image.pixels) for image in table])
    pixels = np.concatenate([image.pixels.numpy() for image in table])
    return ImageBatch(torch.from_numpy(pixels), torch.from_numpy(tile_image))


def _deltas(table: Sequence[TiledImage]) -> Tensor | None:
    drawn = [image.delta_log2 for image in table if image.delta_log2 is not None]
    if not drawn:
        return None
    if len(drawn) != len(table):
        raise ValueError(f"{len(drawn)} of {len(table)} images have a delta of their own: all or none")
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
