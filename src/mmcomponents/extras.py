"""Fields that samples of some kinds add to a pack, beyond those that every pack has.

A record kind attaches such a field to a rendered sample. Collation places the fields of all samples of a pack
(`Extra.placed`) and joins them (`Extra.join`); `PackedBatch.extras` holds the result by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from mmcomponents.movable import Exact, Movable


@dataclass(frozen=True)
class Place:
    """Place of a rendered sample in a pack.

    Attributes:
        segment: Index of its segment.
        start: Index of its first token.
        images: `[i]` index in the pack of each of its images.
        tiles: `[n]` index in the pack of each of its tiles, in the order of its images.
        tokens: Number of its tokens.
    """

    segment: int
    start: int
    images: Tensor
    tiles: Tensor
    tokens: int


@dataclass
class Extra(Movable):
    """Base class of fields that a record kind adds to a pack: a dataclass of tensors with one row for each item.

    Tensors in `Exact` are never cast, all others are by settings such as bf16-true.
    """

    def check(self) -> None:
        """Checks that each value is a tensor, and that all have a row for each item. Values may be None.

        Raises:
            ValueError: One is not.
        """
        rows = [len(tensor) for tensor in self.tensors()]
        if len(set(rows)) > 1:
            names = ", ".join(item.name for item in fields(self))
            raise ValueError(f"there must be a row for each item in {names}, and there are {rows}")

    def tensors(self) -> list[Tensor]:
        """Returns all tensors of the field, of any shape with at least one axis.

        Raises:
            ValueError: A value is none, or has no rows.
        """
        found: list[Tensor] = []
        for item in fields(self):
            value = getattr(self, item.name)
            for tensor in value.tensors if isinstance(value, Exact) else [] if value is None else [value]:
                if not isinstance(tensor, Tensor):
                    raise ValueError(f"{item.name} is {type(tensor).__name__}, not a tensor, an Exact or None")
                if not tensor.ndim:
                    raise ValueError(f"{item.name} is a single number, without a row for each item")
                found.append(tensor)
        return found

    def placed(self, place: Place) -> Self:
        """Returns the field of one sample with indices into its pack. Override this for fields that hold indices."""
        return self

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenates the placed fields of the samples of a pack, in their order, along the first dimension.

        Args:
            parts: At least one field.

        Raises:
            ValueError: A value is set in some of the parts only.
        """
        names = [field.name for field in fields(cls)]
        return cls(**{name: _joined(name, [getattr(part, name) for part in parts]) for name in names})


def _joined(name: str, values: list[Any]) -> Any:
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        known = sum(value is not None for value in values)
        raise ValueError(f"{known} of {len(values)} samples have {name}: all or none must have it")
    if isinstance(values[0], Exact):
        return Exact(*(torch.cat(tensors) for tensors in zip(*(value.tensors for value in values), strict=True)))
    return torch.cat(values)


@dataclass
class Boxes(Extra):
    """Boxes of objects in the tiles of a pack.

    Attributes:
        cxcywh: `Exact` of `[B, 4]` fp32: centre, width and height as shares of the tile's width and height, without its
            padding.
        label: `[B]` int64, class of each box.
        tile: `[B]` int64, tile of each box; in a rendered sample, among the tiles of its images.
        segment: `[B]` int64, segment of each box; None in a rendered sample.
    """

    cxcywh: Exact
    label: Tensor
    tile: Tensor
    segment: Tensor | None = None

    @classmethod
    def none(cls) -> Boxes:
        """Returns the field of a pack without boxes."""
        no = torch.zeros(0, dtype=torch.int64)
        return cls(Exact(torch.zeros(0, 4)), no, no, no)

    def placed(self, place: Place) -> Boxes:
        """Returns the boxes with their segment and the tiles' indices in the pack.

        Raises:
            ValueError: A tile does not exist, or the boxes or labels have another shape or type.
        """
        boxes, tiles = self.cxcywh.tensor, len(place.tiles)
        if boxes.shape[1:] != (4,) or boxes.dtype != torch.float32:
            raise ValueError(f"cxcywh must be fp32 of [B, 4], not {boxes.dtype} of {list(boxes.shape)}")
        if self.label.dtype != torch.int64 or self.tile.dtype != torch.int64:
            raise ValueError(f"label and tile must be int64, not {self.label.dtype} and {self.tile.dtype}")
        if bool(((self.tile < 0) | (self.tile >= tiles)).any()):
            raise ValueError(f"the boxes are in the tiles {self.tile.tolist()[:8]}, and there are {tiles}")
        return replace(self, tile=place.tiles[self.tile], segment=torch.full_like(self.tile, place.segment))


@dataclass
class Actions(Extra):
    """Continuous actions, one for each position of type `TokenType.ACTION`, in their order.

    Attributes:
        values: `Exact` of `[A, k]` fp32.
        mask: `[A]` bool, False for actions past the end of an episode, which have no target.
    """

    values: Exact
    mask: Tensor

    @classmethod
    def none(cls, width: int) -> Actions:
        """Returns the field of a pack without actions of k = `width` values."""
        return cls(Exact(torch.zeros(0, width)), torch.zeros(0, dtype=torch.bool))


@dataclass
class DrawnBoxes(Extra):
    """Boxes with colours of pictures that are to be made.

    Attributes:
        box: `Exact` of `[B, 4]` fp32: left, top, right and bottom as shares of the picture.
        colour: `Exact` of `[B, 3]` fp32: red, green and blue from 0 to 1.
        segment: `[B]` int64, segment of the picture of each box.
    """

    box: Exact
    colour: Exact
    segment: Tensor

    @classmethod
    def of(cls, boxes: Sequence[Sequence[float]] = (), colours: Sequence[Sequence[float]] = ()) -> DrawnBoxes:
        """Makes the tensors of a sample; without arguments, those of a pack without boxes."""
        box = torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4)
        colour = torch.tensor(list(colours), dtype=torch.float32).reshape(-1, 3)
        return cls(Exact(box), Exact(colour), torch.zeros(len(boxes), dtype=torch.int64))

    def placed(self, place: Place) -> DrawnBoxes:
        """Returns the boxes with their segment in the pack."""
        return replace(self, segment=torch.full_like(self.segment, place.segment))


@dataclass
class Pictures(Extra):
    """Pictures to be made in training, with what a generator is conditioned on besides the sequence.

    Attributes:
        target: `Exact` of `[P, 3, H, W]` fp32, the pictures.
        reference: `Exact` of `[P, 3, H, W]` fp32, pictures to be edited; None: there are none.
        canvas: `Exact` of `[P, 3, H, W]` fp32, drawings of the layout; None: there are none.
    """

    target: Exact
    reference: Exact | None = None
    canvas: Exact | None = None


@dataclass
class References(Extra):
    """Pictures that prompts ask to edit, at the size of the pictures that are made.

    Attributes:
        picture: `Exact` of `[R, 3, H, W]` fp32 from -1 to 1.
        segment: `[R]` int64, segment of the prompt of each.
    """

    picture: Exact
    segment: Tensor

    @classmethod
    def of(cls, pictures: Sequence[Tensor], segments: Sequence[int], side: int) -> References:
        """Makes the tensors of a pack of prompts.

        Args:
            pictures: `[3, side, side]` each.
            segments: Segment of each.
            side: Width and height in pixels.
        """
        stacked = torch.stack(list(pictures)) if pictures else torch.zeros(0, 3, side, side)
        return cls(Exact(stacked), torch.tensor(list(segments), dtype=torch.int64))

    def placed(self, place: Place) -> References:
        """Returns the pictures with their segment in the pack."""
        return replace(self, segment=torch.full_like(self.segment, place.segment))
