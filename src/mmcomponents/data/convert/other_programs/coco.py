"""Annotations of COCO for detection (Lin et al. 2014, arXiv 1405.0312) as one record for each image.

    {"images": [{"id": 7, "file_name": PATH, "width": 640, "height": 480}, …],
     "annotations": [{"image_id": 7, "category_id": 18, "bbox": [left, top, width, height], "area": 900, "iscrowd": 0},
                     …],
     "categories": [{"id": 18, "name": "dog"}, …]}

    {"image": PATH, "boxes": [[left, top, right, bottom], …], "labels": [16, …], "size": [640, 480], "coco_id": 7,
     "areas": [900, …], "crowds": [{"box": [left, top, right, bottom], "label": 16, "area": 4000}, …]}

Labels number the categories in the order of their ids, without gaps. Boxes around crowds (`iscrowd`) are apart from the
others, as detection transformers are trained without them and average precision knows them; images without boxes are
kept.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.kinds import BoxedImage, Kinds
from mmcomponents.data.convert.inputs.json_list import is_list
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.other_programs.coco_content import by_id, entries, read_content
from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.atomic_write import write_text

FOLDER = "coco"
"""Folder of the records below that of the shards."""

_IMAGE = ("id", "file_name", "width", "height")
_ANNOTATION = ("image_id", "category_id", "bbox")


@dataclass(frozen=True)
class CocoFiles:
    """The inputs of a conversion that are files of COCO.

    Attributes:
        lines: Input -> file of its records.
        categories: `{"id": 18, "name": "dog"}` of each label, without names that the files lack.
    """

    lines: dict[str, Path] = field(default_factory=dict)
    categories: list[dict[str, Any]] = field(default_factory=list)


def as_lines(inputs: Sequence[str], out: Path, kinds: Kinds) -> CocoFiles:
    """Writes the records of COCO's files as JSON lines into the folder of the shards.

    Args:
        inputs: Inputs of a conversion.
        out: Folder of the shards.
        kinds: Record kinds of the runs. Without `BoxedImage`, no file is taken for one of COCO.

    Raises:
        DataError: Such a file is malformed, two of them have the same name, or their categories differ.
    """
    lines: dict[str, Path] = {}
    classes: dict[str, list[dict[str, Any]]] = {}
    if not any(isinstance(kind, BoxedImage) for kind in kinds.kinds):
        return CocoFiles()
    for given in inputs:
        path = Path(given)
        if path.suffix.lower() != ".json" or not path.is_file() or is_list(path):
            continue
        content = read_content(path)
        if content is None:
            continue
        target = out / FOLDER / f"{path.stem}.jsonl"
        if target in lines.values():
            raise DataError(f"two inputs have the name {path.name}, by which their shards are named: rename one")
        classes[given] = categories(content, str(path))
        _check_same(classes)
        text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records(content, str(path)))
        if not target.is_file() or target.read_text(encoding="utf-8") != text:  # a new file would be another input
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
        lines[given] = target
    return CocoFiles(lines, next(iter(classes.values()), []))


def beside_images(sources: Sequence[Source], lines: Mapping[str, Path]) -> list[Source]:
    """Returns sources whose images lie beside the files of COCO, and not beside the records made of them."""
    folders = {target: Path(given).parent for given, target in lines.items()}
    return [replace(s, root=folders[s.files[0]]) if s.files[0] in folders else s for s in sources]


def categories(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns id and name of the category of each label.

    Args:
        content: A file of COCO.
        where: Its name, for messages.

    Raises:
        DataError: A category is malformed, or two have the same id.
    """
    found = by_id(content, "categories", ("id",), where, "name")
    texts = [category for category in found if isinstance(category, str)]
    if texts and len(texts) < len(found):
        number = next(category for category in found if not isinstance(category, str))
        raise DataError(
            f"{where}: the ids of 'categories' are numbers and texts, such as {number!r} and {texts[0]!r}, which have"
            " no order"
        )
    return [
        {"id": category, **({"name": entry["name"]} if isinstance(entry.get("name"), str) else {})}
        for category, entry in sorted(found.items())
    ]


def records(content: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns a record for each image.

    Args:
        content: A file of COCO.
        where: Its name, for messages.

    Raises:
        DataError: An entry is malformed, two have the same id, or one names an image or a category that does not exist.
    """
    labels = {category["id"]: number for number, category in enumerate(categories(content, where))}
    images = by_id(content, "images", _IMAGE, where, "file_name")
    by_id(content, "annotations", _ANNOTATION, where)
    found: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    crowds: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, entry in enumerate(entries(content, "annotations", _ANNOTATION, where), start=1):
        image = _listed(entry, "image_id", images, "images", f"{where}: annotation {number}")
        category = _listed(entry, "category_id", labels, "categories", f"{where}: annotation {number}")
        box, area, crowd = entry["bbox"], entry.get("area"), entry.get("iscrowd")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(x) for x in box):
            raise DataError(f"{where}: the bbox of annotation {number} must be [left, top, width, height], not {box}")
        if area is not None and (not _is_number(area) or area < 0):
            raise DataError(f"{where}: the area of annotation {number} must be a number of pixels, not {area!r:.60}")
        if crowd not in (None, 0, 1):
            raise DataError(f"{where}: iscrowd of annotation {number} must be 0 or 1, not {crowd!r:.60}")
        left, top, width, height = box
        corners = [left, top, left + width, top + height]
        row = {"box": corners, "label": labels[category], "area": max(width * height, 0) if area is None else area}
        (crowds if crowd else found)[image].append(row)
    return [
        {
            "image": image["file_name"],
            "boxes": [row["box"] for row in found[name]],
            "labels": [row["label"] for row in found[name]],
            "size": [image["width"], image["height"]],
            "coco_id": name,
            "areas": [row["area"] for row in found[name]],
            **({"crowds": crowds[name]} if name in crowds else {}),
        }
        for name, image in images.items()
    ]


def _listed(entry: Mapping[str, Any], key: str, known: Mapping[Any, Any], table: str, what: str) -> Any:
    """Returns the id of an image or a category that an annotation is of."""
    name = entry[key]
    if isinstance(name, bool) or not isinstance(name, int | str):
        raise DataError(f"{what} has the {key} {name!r:.60}, which is neither an integer nor a text")
    if name not in known:
        raise DataError(f"{what} has the {key} {name!r:.60}, which is not among {table!r}")
    return name


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_same(classes: Mapping[str, list[dict[str, Any]]]) -> None:
    """Checks that the labels of two files mean the same.

    Raises:
        DataError: They do not.
    """
    (first, known), (last, others) = next(iter(classes.items())), list(classes.items())[-1]
    if known == others:
        return
    here, there = next(
        ((one, other) for one, other in zip(known, others, strict=False) if one != other), (len(known), len(others))
    )
    raise DataError(
        f"the categories of {first} and {last} differ ({here} and {there}), and labels number them: convert the files"
        " into folders of their own"
    )
