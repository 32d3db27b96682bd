"""Annotations of COCO for detection (Lin et al. 2014, arXiv 1405.0312) as one record for each image.

    {"images": [{"id": 7, "file_name": PATH, "width": 640, "height": 480}, …],
     "annotations": [{"image_id": 7, "category_id": 18, "bbox": [left, top, width, height], "iscrowd": 0}, …],
     "categories": [{"id": 18, "name": "dog"}, …]}

    {"image": PATH, "boxes": [[left, top, right, bottom], …], "labels": [16, …], "size": [640, 480], "coco_id": 7}

Labels number the categories in the order of their ids, without gaps. Boxes around crowds (`iscrowd`) are left out, as
detection transformers are trained; images without boxes are kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.kinds import BoxedImage, Kinds
from mmcomponents.data.convert.inputs.json_list import is_list
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.inputs.strict_json import JsonProblem, parse_json
from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.atomic_write import write_text

FOLDER = "coco"
"""Folder of the records below that of the shards."""

_KEYS = {"images", "annotations", "categories"}


def as_lines(inputs: Sequence[str], out: Path, kinds: Kinds) -> dict[str, Path]:
    """Writes the records of COCO's files as JSON lines into the folder of the shards.

    Args:
        inputs: Inputs of a conversion.
        out: Folder of the shards.
        kinds: Record kinds of the runs. Without `BoxedImage`, no file is taken for one of COCO.

    Returns:
        Input -> file of its records, for those that are files of COCO.

    Raises:
        DataError: Such a file is malformed, or two of them have the same name.
    """
    found: dict[str, Path] = {}
    if not any(isinstance(kind, BoxedImage) for kind in kinds.kinds):
        return found
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() != ".json" or not path.is_file() or is_list(path):
            continue
        content = _content(path)
        if content is None:
            continue
        target = out / FOLDER / f"{path.stem}.jsonl"
        if target in found.values():
            raise DataError(f"two inputs have the name {path.name}, by which their shards are named: rename one")
        text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records(content, str(path)))
        if not target.is_file() or target.read_text(encoding="utf-8") != text:  # a new file would be another input
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
        found[given] = target
    return found


def beside_images(sources: Sequence[Source], lines: Mapping[str, Path]) -> list[Source]:
    """Returns sources whose images lie beside the files of COCO, and not beside the records made of them."""
    folders = {target: Path(given).parent for given, target in lines.items()}
    return [replace(s, root=folders[s.files[0]]) if s.files[0] in folders else s for s in sources]


def records(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns a record for each image.

    Args:
        content: A file of COCO.
        where: Its name, for messages.

    Raises:
        DataError: An entry is malformed, or names an image or a category that does not exist.
    """
    labels = {category: number for number, category in enumerate(sorted(_field(content, "categories", "id", where)))}
    images = {
        image["id"]: image for image in _entries(content, "images", ("id", "file_name", "width", "height"), where)
    }
    boxes: dict[Any, list[tuple[list[float], int]]] = defaultdict(list)
    for number, entry in enumerate(
        _entries(content, "annotations", ("image_id", "category_id", "bbox"), where), start=1
    ):
        image, category, box = entry["image_id"], entry["category_id"], entry["bbox"]
        if image not in images or category not in labels:
            raise DataError(
                f"{where}: annotation {number} is of the image {image} and the category {category}, one of which is"
                " not listed"
            )
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(x, int | float) for x in box):
            raise DataError(f"{where}: the bbox of annotation {number} must be [left, top, width, height], not {box}")
        if not entry.get("iscrowd"):
            left, top, width, height = box
            boxes[image].append(([left, top, left + width, top + height], labels[category]))
    return [
        {
            "image": image["file_name"],
            "boxes": [box for box, _ in boxes[name]],
            "labels": [label for _, label in boxes[name]],
            "size": [image["width"], image["height"]],
            "coco_id": name,
        }
        for name, image in images.items()
    ]


def _content(path: Path) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except (JsonProblem, UnicodeDecodeError):  # reported by the reader of annotation files
        return None
    return content if isinstance(content, dict) and content.keys() >= _KEYS else None


def _field(content: Mapping[str, Any], key: str, field: str, where: str) -> list[Any]:
    return [entry[field] for entry in _entries(content, key, (field,), where)]


def _entries(content: Mapping[str, Any], key: str, fields: Sequence[str], where: str) -> list[dict[str, Any]]:
    entries = content[key]
    if not isinstance(entries, list):
        raise DataError(f"{where}: {key!r} must be a list")
    for number, entry in enumerate(entries, 1):
        missing = [field for field in fields if not isinstance(entry, dict) or field not in entry]
        if missing:
            raise DataError(f"{where}: entry {number} of {key!r} has no {missing[0]!r}")
    return entries
