"""COCO's annotations become shards with boxes; what is malformed is one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmcomponents.data.chat.kinds import BoxedImage, Kinds
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.convert import convert_annotations
from mmcomponents.data.convert.other_programs.coco import records
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index

CONTENT: dict[str, Any] = {
    "info": {},
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 20},
        {"id": 9, "file_name": "b.png", "width": 30, "height": 30},
        {"id": 8, "file_name": "c.png", "width": 30, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 5, 20, 10], "iscrowd": 0},
        {"id": 2, "image_id": 8, "category_id": 3, "bbox": [0, 0, 0, 5], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        {"id": 4, "image_id": 7, "category_id": 3, "bbox": [1.5, 2, 3, 4], "iscrowd": 0},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for image in CONTENT["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / image["file_name"])
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CONTENT))
    return path


def test_a_record_for_each_image() -> None:
    found = records(CONTENT, "train.json")
    assert found[0] == {
        "image": "a.png",
        "boxes": [[10, 5, 30, 15], [1.5, 2, 4.5, 6]],
        "labels": [1, 0],  # in the order of the ids; the crowd is left out
        "size": [40, 20],
        "coco_id": 7,
    }
    assert (found[1]["boxes"], found[1]["labels"]) == ([], [])


def test_shards_of_coco(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    report = convert_annotations([str(coco)], out, "byte-level", kinds=["BoxedImage"], num_workers=1)
    (refused,) = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert "box 1 of 1 is empty" in refused["reason"]
    kinds = Kinds([BoxedImage()])
    index = Index.open(sorted(map(str, out.glob("*.tar"))), load_tokenizer("byte-level"), kinds=kinds)
    stored = [index.read(number) for number in range(len(index))]
    assert [one.record["coco_id"] for one in stored] == [7, 9]
    assert stored[0].record["source"] == "train"
    assert all(len(one.images) == 1 for one in stored)
    again = convert_annotations([str(coco)], out, "byte-level", kinds=["BoxedImage"], num_workers=1)
    assert again.found == 1  # nothing is converted twice
    assert report.found == 0


def test_without_the_kind_it_is_no_input(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a sample nor a meta file"):
        convert_annotations([str(coco)], tmp_path / "out", "byte-level", num_workers=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(image_id=5), "annotation 1 is of the image 5 and the category 18"),
        (lambda c: c["annotations"][1].update(category_id=5), "annotation 2 is of the image 8 and the category 5"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, 3]), r"bbox of annotation 4 must be \[left, top, width"),
        (lambda c: c["images"][1].pop("width"), "entry 2 of 'images' has no 'width'"),
        (lambda c: c.update(categories={}), "'categories' must be a list"),
    ],
)
def test_malformed_files(change: Any, said: str) -> None:
    content = copy.deepcopy(CONTENT)
    change(content)
    with pytest.raises(DataError, match=f"train.json: .*{said}"):
        records(content, "train.json")
