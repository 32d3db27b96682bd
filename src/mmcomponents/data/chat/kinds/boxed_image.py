"""Images with boxes around objects, for models that detect them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.box_augmentation import BoxAugmentation
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Boxes, Extra
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.movable import Exact

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer

_SLACK = 1.0
"""Pixels by which a box may leave its image, as rounding does; it is cut there."""


class BoxedImage(RecordKind):
    """An image with boxes: `{"boxes": [[left, top, right, bottom], …], "labels": [3, …], "size": [width, height]}`.

    Boxes are in pixels of an image of `size`, which is that of the upright picture; labels number the classes from 0
    on. The sample is a segment without tokens, whose image no position shows, and its boxes are the field `boxes` of a
    pack. An image may have no boxes.

    Two keys are for the average precision alone: `areas` of the objects in pixels, and `crowds`, boxes around groups
    whose objects nobody marked, `[{"box": [left, top, right, bottom], "label": 3, "area": 900}, …]`.

    Args:
        num_classes: Number of classes of the head; samples with another class are skipped. None: not checked here.
        max_boxes: Largest number of boxes of an image, that of the head's queries; samples with more are skipped. None:
            not checked here.
        augmentation: Changes images and boxes in training. None: nothing does.
    """

    name: ClassVar[str] = "boxes"

    def __init__(
        self,
        num_classes: int | None = None,
        max_boxes: int | None = None,
        augmentation: BoxAugmentation | None = None,
    ) -> None:
        for name, value in (("num_classes", num_classes), ("max_boxes", max_boxes)):
            if value is not None:
                check_sizes(MAX_ROWS, **{name: value})
        self.num_classes, self.max_boxes, self.augmentation = num_classes, max_boxes, augmentation

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there are boxes with labels."""
        return "boxes" in record and "labels" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks boxes, labels and size.

        Raises:
            SampleError: A box is empty, outside of the image or none, a class does not exist, or there are too many.
        """
        boxes, labels = record["boxes"], record["labels"]
        size: Any = record.get("size")
        if not _numbers(size, 2) or min(size) < 1:
            raise SampleError(f'"size" must be [width, height] in pixels, not {str(size)[:60]}')
        if not isinstance(boxes, list) or not isinstance(labels, list) or len(boxes) != len(labels):
            counts = [len(x) if isinstance(x, list) else type(x).__name__ for x in (boxes, labels)]
            raise SampleError(f"there must be a label for each box: {counts[0]} boxes, {counts[1]} labels")
        width, height = size
        for number, box in enumerate(boxes, 1):
            if not _numbers(box, 4):
                raise SampleError(f"box {number} must be [left, top, right, bottom], not {str(box)[:60]}")
            left, top, right, bottom = box
            if right <= left or bottom <= top:
                raise SampleError(f"box {number} of {len(boxes)} is empty: {box}")
            if min(left, top) < -_SLACK or right > width + _SLACK or bottom > height + _SLACK:
                raise SampleError(f"box {number} of {len(boxes)} is outside of the image of {width} x {height}: {box}")
        if wrong := [label for label in labels if not _label(label)]:
            raise SampleError(f"labels must be numbers of classes from 0 on, not {wrong[0]!r:.40}")
        if self.num_classes is not None and max(labels, default=0) >= self.num_classes:
            raise SampleError(f"the class {max(labels)} is none of the {self.num_classes} of the run (num_classes)")
        if self.max_boxes is not None and len(boxes) > self.max_boxes:
            raise SampleError(f"{len(boxes)} boxes are more than the {self.max_boxes} that the run finds (max_boxes)")
        _check_areas(record.get("areas"), len(boxes))
        _check_crowds(record.get("crowds"))

    def empty(self) -> dict[str, Extra]:
        """Returns the field of boxes, without any."""
        return {"boxes": Boxes.none()}

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the image as one segment without tokens. Of several tiles, the last one has the boxes.

        Raises:
            SampleError: There is not exactly one image of the record's size, or in training one of several tiles.
        """
        image, size = self._image(sample, takes_tiles=not sample.is_training), sample.record["size"]
        boxes = np.array(sample.record["boxes"], np.float64).reshape(-1, 4) / np.array([*size, *size])
        boxes, labels = boxes.clip(0.0, 1.0), np.array(sample.record["labels"], np.int64)
        if self.augmentation is not None and sample.is_training and image.pixels is not None:
            pixels, boxes, kept = self.augmentation(image.pixels, boxes, sample.generator("boxes"))
            image, labels = TiledImage(pixels), labels[kept]
        centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        cxcywh = torch.from_numpy(np.concatenate((centre, extent), axis=1).astype(np.float32))
        tile = torch.full((len(labels),), max(image.num_tiles - 1, 0), dtype=torch.int64)
        field = Boxes(Exact(cxcywh), torch.from_numpy(labels), tile)
        return [RenderedSample([], [], (), [image], {"boxes": field} if image.num_tiles else {})]

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns 1: what the image shows is asked once."""
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the image as a prompt without a question, whose answer are its boxes, labels and size."""
        answer = true_boxes(sample.record)
        return [Prompt(RenderedSample([], [], (), [self._image(sample)]), "", answer, form="values")]

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Returns False: there is no text."""
        return False

    def _image(self, sample: Sample, takes_tiles: bool = False) -> TiledImage:
        if len(sample.pictures) != 1:
            raise SampleError(f"boxes are of one image, and the sample has {len(sample.pictures)}")
        image = sample.pictures[0]
        if image.size is not None:
            check_size(sample.record, image.size)
        if image.num_tiles > 1 and not takes_tiles:
            raise SampleError(
                f"boxes are in an image of one tile, and it has {image.num_tiles}: set data.images.max_tiles to 1"
            )
        return image


def true_boxes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what found boxes are compared with: `boxes`, `labels` and `size`, and `areas` and `crowds` if known."""
    names = ("boxes", "labels", "size", *(name for name in ("areas", "crowds") if record.get(name) is not None))
    return {name: record[name] for name in names}


def check_size(record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Compares the size of a checked record with that of its picture.

    Args:
        record: Record with `size`, width and height of the annotated image in pixels.
        size: Width and height of the upright picture.

    Raises:
        SampleError: They differ.
    """
    width, height = (round(side) for side in record["size"])
    if (width, height) != size:
        raise SampleError(
            f"its boxes are of an image of {width} x {height} and the file has {size[0]} x {size[1]}: `mmcomponents"
            " data convert` compares them, and turns boxes with images that EXIF turns"
        )


def _check_areas(areas: object, count: int) -> None:
    if areas is not None and not (isinstance(areas, list) and _numbers(areas, count) and min(areas, default=0) >= 0):
        raise SampleError(f'"areas" must have the area of each of {count} boxes in pixels, not {str(areas)[:60]}')


def _check_crowds(crowds: object) -> None:
    given: list[Any] = crowds if isinstance(crowds, list) else [] if crowds is None else [crowds]
    for crowd in given:
        keys = isinstance(crowd, dict) and crowd.keys() == {"box", "label", "area"}
        if not keys or not _numbers(crowd["box"], 4) or not _label(crowd["label"]) or not _numbers([crowd["area"]], 1):
            raise SampleError(f'"crowds" must be [{{"box": …, "label": …, "area": …}}, …], not {str(crowd)[:60]}')


def _label(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(value: object, count: int) -> bool:
    """Whether a value is a list of finite numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
        return False
    return all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)
