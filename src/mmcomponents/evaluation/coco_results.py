"""Found boxes in the format of COCO's results, which its evaluation servers and tools read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcomponents.data.errors import DataError
from mmcomponents.data.media.exif_turns import turned_back
from mmcomponents.evaluation.readers.boxed_images import StoredImage


def coco_results(
    images: Sequence[StoredImage], rows: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]] | None:
    """Returns `{"image_id", "category_id", "bbox": [left, top, width, height], "score"}` of each found box.

    Boxes of an image that the conversion turned by its EXIF orientation are turned back, as the annotations have them.

    Args:
        images: Images of the benchmark, with the ids of COCO if known.
        rows: `key` and found `boxes` with `box`, `label` and `score` of some of them.
        categories: `id` of the category of each label.

    Returns:
        The boxes; None if an image has no id.

    Raises:
        DataError: A label has no category.
    """
    by_key, results = {image.key: image for image in images}, list[dict[str, Any]]()
    for row in rows:
        image = by_key[row["key"]]
        if image.coco_id is None:
            return None
        for found in row["boxes"]:
            if found["label"] >= len(categories):
                raise DataError(
                    f"a box of {image.key} has the class {found['label']}, and the annotations of the shards have"
                    f" {len(categories)} categories: the head of the model has others"
                )
            left, top, right, bottom = found["box"]
            if image.turned_by is not None:
                width, height = image.true["size"]
                left, top, right, bottom = turned_back((left, top, right, bottom), image.turned_by, width, height)
            box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            category = categories[found["label"]]["id"]
            results.append({"image_id": image.coco_id, "category_id": category, "bbox": box, "score": found["score"]})
    return results
