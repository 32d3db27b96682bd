"""Found boxes in COCO's format."""

from __future__ import annotations

from typing import Any

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shards import Member
from mmcomponents.evaluation.coco_results import coco_results
from mmcomponents.evaluation.readers.boxed_images import StoredImage

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 18}]


def stored(key: str, coco_id: int | None, turned_by: int | None = None) -> StoredImage:
    return StoredImage(key, {"size": [60, 90]}, "a.tar", Member("png", 0, 1), coco_id, turned_by)


def row(key: str, *box: float, label: int = 1) -> dict[str, Any]:
    return {"key": key, "boxes": [{"label": label, "name": "1", "score": 0.25, "box": [*box]}]}


def test_ids_and_widths() -> None:
    found = coco_results([stored("a", 7), stored("b", 9)], [row("b", 1, 2, 4, 8)], CATEGORIES)
    assert found == [{"image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 6], "score": 0.25}]


def test_boxes_of_turned_images_are_turned_back() -> None:
    # (18, 6, 45, 21) in a file of 90 x 60 that EXIF turns by a quarter
    found = coco_results([stored("a", 7, turned_by=6)], [row("a", 39, 18, 54, 45)], CATEGORIES)
    assert found is not None
    assert found[0]["bbox"] == [18, 6, 27, 15]


def test_without_ids_there_are_none_and_a_class_without_category_is_an_error() -> None:
    assert coco_results([stored("a", None)], [row("a", 1, 2, 4, 8)], CATEGORIES) is None
    with pytest.raises(DataError, match="a box of a has the class 2, and the annotations of the shards have 2 cat"):
        coco_results([stored("a", 7)], [row("a", 1, 2, 4, 8, label=2)], CATEGORIES)
