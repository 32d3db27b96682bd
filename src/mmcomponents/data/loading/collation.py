"""Collation of rendered samples into one pack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, ImageBatch, Layout, PackedBatch, Pairs, Steps, TokenType
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Extra, Place

Ids = npt.NDArray[np.int64]


def token_grid(tokens_per_tile: int) -> tuple[int, int]:
    """Returns (rows, columns) of a tile's tokens: a square if the number allows it, else the nearest wider shape."""
    rows = next(rows for rows in range(math.isqrt(tokens_per_tile), 0, -1) if tokens_per_tile % rows == 0)
    return rows, tokens_per_tile // rows


def collate(
    samples: Sequence[RenderedSample],
    tokens_per_tile: int,
    pad_id: int,
    refused: Sequence[str] = (),
    empty: Mapping[str, Extra] | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> PackedBatch:
    """Concatenates samples into a pack, one segment each, in the given order.

    Args:
        samples: The segments. An empty sequence gives a pack of one segment with a single padding token and no target.
        tokens_per_tile: Visual tokens per tile.
        pad_id: Id of the padding token.
        refused: Skipped samples, as "shard/key: reason".
        empty: Fields without items that the record kinds of the run add to every pack, by name.
        seed: Seed of the data.
        epoch: Epoch of the data.

    Raises:
        ValueError: The image tokens and the visual tokens of a sample differ in number, a span leaves its segment or
            overlaps another one, a field cannot be placed, or only some of the samples have a value that all or none
            must have.
    """
    images = _Images(tokens_per_tile)
    ids, labels, kinds, visual, image_id = [], [], [], [], []
    fields = _Fields(empty or {})
    start = 0
    for segment, sample in enumerate(samples):
        length, numbers = len(sample.input_ids), images.add(sample)
        try:
            sample.check()
        except ValueError as error:
            raise ValueError(f"{sample.key}: {error}") from error
        target = np.full(length, IGNORE, np.int64)
        target[:-1] = sample.labels[1:]  # within the segment: the last token has no target
        kind, index, number = np.full(length, TokenType.TEXT), np.full(length, -1), np.full(length, -1)
        for span in sample.spans:
            end = span.start + span.count
            kind[span.start : end] = span.type
            if span.image >= 0:
                number[span.start : end] = numbers[span.image]
                index[span.start : end] = images.visual_tokens(numbers[span.image], span.count, sample.key)
        ids.append(_integers(sample.input_ids, sample.key))
        labels.append(target)
        kinds.append(kind)
        visual.append(index)
        image_id.append(number)
        if sample.extras:
            tiles = images.tiles(numbers)
            fields.add(sample, Place(segment, start, torch.tensor(numbers, dtype=torch.int64), tiles, length))
        start += length
    extras = fields.joined()
    pairs, steps = extras.pop("pairs", None), extras.pop("steps", None)
    if not isinstance(pairs, Pairs | None) or not isinstance(steps, Steps | None):
        raise ValueError("the fields pairs and steps of a pack are Pairs and Steps; another class has another name")
    if not samples:
        return replace(_empty(pad_id, refused), pairs=pairs, steps=steps, extras=extras, seed=seed, epoch=epoch)
    lengths = [len(part) for part in ids]
    return PackedBatch(
        input_ids=_join(ids),
        layout=Layout(
            token_type=_join(kinds),
            cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
            max_seqlen=max(lengths),
            image_id=_join(image_id),
            grid=images.grid(),
            delta_log2=images.deltas(),
        ),
        visual_index=_join(visual),
        labels=_join(labels),
        segment_sample=torch.tensor([s.sample for s in samples]),
        segment_source=torch.tensor([s.source for s in samples]),
        keys=[s.key for s in samples],
        images=images.batch(),
        pairs=pairs,
        steps=steps,
        extras=extras,
        refused=list(refused),
        seed=seed,
        epoch=epoch,
        segment_copy=torch.tensor([s.copy for s in samples]),
    )


class _Fields:
    """The fields of the samples of a pack by name, after the empty ones of the record kinds."""

    def __init__(self, empty: Mapping[str, Extra]) -> None:
        self.parts: dict[str, list[Extra]] = {name: [extra] for name, extra in empty.items()}

    def add(self, sample: RenderedSample, place: Place) -> None:
        """Adds the fields of a sample."""
        for name, extra in sample.extras.items():
            try:
                if not isinstance(extra, Extra):
                    raise TypeError(f"it is {type(extra).__name__}, not an Extra")
                extra.check()
                parts = self.parts.setdefault(name, [])
                if parts and type(parts[0]) is not type(extra):
                    raise TypeError(f"it is {type(extra).__name__}, that of other samples {type(parts[0]).__name__}")
                parts.append(extra.placed(place))
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(f"{sample.key}: the field {name} cannot be placed in the pack: {error}") from error

    def joined(self) -> dict[str, Extra]:
        """Returns the fields of the pack."""
        return {name: _joined(name, parts) for name, parts in self.parts.items()}


def _joined(name: str, parts: Sequence[Extra]) -> Extra:
    try:
        joined = type(parts[0]).join(parts)
        if type(joined) is not type(parts[0]):
            raise TypeError(f"join returns {type(joined).__name__}")
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the field {name} of the samples of a pack cannot be joined: {error}") from error
    return joined


class _Images:
    """The images of a pack; segments that hold the same object share its visual tokens."""

    def __init__(self, tokens_per_tile: int) -> None:
        self.tokens_per_tile = tokens_per_tile
        self.images: list[TiledImage] = []
        self._numbers: dict[int, int] = {}  # id of the object → number of the image
        self._tokens: list[int] = [0]  # first visual token of each image
        self._tiles: list[int] = [0]  # first tile of each image

    def add(self, sample: RenderedSample) -> list[int]:
        """Adds the images of a sample; returns their numbers."""
        for image in sample.images:
            if id(image) not in self._numbers:
                self._numbers[id(image)] = len(self.images)
                self.images.append(image)
                self._tokens.append(self._tokens[-1] + image.count_tokens(self.tokens_per_tile))
                self._tiles.append(self._tiles[-1] + image.num_tiles)
        return [self._numbers[id(image)] for image in sample.images]

    def visual_tokens(self, image: int, count: int, key: str) -> Ids:
        """Returns the `[count]` indices of the visual tokens of an image."""
        begin, end = self._tokens[image : image + 2]
        if count != end - begin:
            tiles = self.images[image].num_tiles
            raise ValueError(
                f"{key}: {count} image tokens for {end - begin} visual tokens"
                f" ({tiles} tiles of {(end - begin) // max(tiles, 1)})"
            )
        return np.arange(begin, end)

    def tiles(self, images: Sequence[int]) -> Tensor:
        """Returns the indices of the tiles of images."""
        found = [np.arange(*self._tiles[image : image + 2]) for image in images]
        return _join(found) if found else torch.zeros(0, dtype=torch.int64)

    def grid(self) -> Tensor:
        """Returns `[n, 3]` tiles, rows and columns of each image."""
        each = [(image.num_tiles, image.count_tokens(self.tokens_per_tile)) for image in self.images]
        shapes = [[tiles, *token_grid(max(tokens // max(tiles, 1), 1))] for tiles, tokens in each]
        return torch.tensor(shapes, dtype=torch.int64).view(-1, 3)

    def deltas(self) -> Tensor | None:
        """Returns V2PE's k of each image; None if none has one."""
        drawn = [image.delta_log2 for image in self.images if image.delta_log2 is not None]
        if not drawn:
            return None
        if len(drawn) != len(self.images):
            raise ValueError(
                f"{len(drawn)} of {len(self.images)} images have a delta of their own: all or none must have one"
            )
        return torch.tensor(drawn, dtype=torch.int64)

    def batch(self) -> ImageBatch | None:
        """Returns the tiles; those of unequal images are padded with zeros at the right and the bottom."""
        if not self.images:
            return None
        # numpy, since torch would use its threads, which the training step needs
        tile_image = torch.from_numpy(np.repeat(np.arange(len(self.images)), np.diff(self._tiles)))
        kinds = {image.pixels is None for image in self.images}
        if len(kinds) == 2:
            raise ValueError("a pack has images of pixels and images of vq_ids: a run takes one of the two")
        arrays = [_array(image) for image in self.images]
        height, width = (max(array.shape[axis] for array in arrays) for axis in (-2, -1))
        valid = [image.valid_hw or array.shape[-2:] for image, array in zip(self.images, arrays, strict=True)]
        valid_hw = None
        if any(shape != (height, width) for shape in valid):
            shapes = [shape for image, shape in zip(self.images, valid, strict=True) for _ in range(image.num_tiles)]
            valid_hw = torch.tensor(shapes, dtype=torch.int64).view(-1, 2)
        values = torch.from_numpy(np.concatenate([_padded(array, height, width) for array in arrays]))
        if kinds == {True}:
            return ImageBatch(None, tile_image, vq_ids=values, valid_hw=valid_hw)
        return ImageBatch(values, tile_image, valid_hw=valid_hw)


def _integers(values: Sequence[int], key: str) -> Ids:
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"{key}: token ids must be integers, not {found.dtype}")
    return found.astype(np.int64)


def _array(image: TiledImage) -> Any:
    found = image.vq_ids if image.pixels is None else image.pixels
    assert found is not None
    return found.numpy()


def _padded(array: Any, height: int, width: int) -> Any:
    missing = height - array.shape[-2], width - array.shape[-1]
    if not any(missing):
        return array
    return np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, missing[0]), (0, missing[1])])


def _join(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


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
