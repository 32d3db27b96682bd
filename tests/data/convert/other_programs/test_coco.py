"""COCO's annotations become shards with boxes; what is malformed is one line."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mmcomponents.data.chat.kinds import BoxedImage, Kinds
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.convert import convert_annotations
from mmcomponents.data.convert.other_programs.coco import records
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.evaluation.readers.boxed_images import stored_categories

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
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1, "area": 300},
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
        "areas": [200, 12.0],  # of the boxes, as the file gives none
        "crowds": [{"box": [0, 0, 40, 20], "label": 0, "area": 300}],
    }
    assert "crowds" not in found[1]
    assert (found[1]["boxes"], found[1]["labels"]) == ([], [])


def test_shards_of_coco(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    report = convert_annotations([str(coco)], out, "byte-level", kinds=["BoxedImage"], num_workers=1)
    (refused,) = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert "box 1 of 1 is empty" in refused["reason"]
    assert refused["image"] == "c.png"
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
    with pytest.raises(DataError, match=r"neither a sample nor a meta file .*--kinds BoxedImage"):
        convert_annotations([str(coco)], tmp_path / "out", "byte-level", num_workers=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(image_id=5), "annotation 1 has the image_id 5, .* among 'images'"),
        (lambda c: c["annotations"][1].update(category_id=5), "annotation 2 has the category_id 5, .* 'categories'"),
        (lambda c: c["annotations"][1].update(image_id=[8]), r"the image_id \[8\], which is neither an integer"),
        (lambda c: c["annotations"][1].update(area=-1), "area of annotation 2 must be a number of pixels, not -1"),
        (lambda c: c["annotations"][1].update(iscrowd="0"), "iscrowd of annotation 2 must be 0 or 1, not '0'"),
        (lambda c: c["annotations"][3].update(id=1), "entries 1 and 4 of 'annotations' have the same id, 1"),
        (
            lambda c: c["images"][2].update(id=7),
            r"entries 1 \('a.png'\) and 3 \('c.png'\) of 'images' have the same id",
        ),
        (
            lambda c: c["categories"][1].update(id=18),
            r"1 \('dog'\) and 2 \('car'\) of 'categories' have the same id, 18",
        ),
        (lambda c: c["images"][0].update(id=[7]), r"id of entry 1 of 'images' must be an integer or a text, not \[7\]"),
        (lambda c: c["categories"][0].update(id=True), "id of entry 1 of 'categories' must be an integer or a text"),
        (lambda c: c["categories"][0].update(id="x"), "'categories' are numbers and texts, such as 3 and 'x'"),
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("1.5", "NaN"), "is not valid JSON in entry 4 of 'annotations': NaN is not JSON"),
        (lambda text: text.replace('"info"', '"images": [], "images"'), "is not valid JSON: duplicate key 'images'"),
        (lambda text: text.replace('"categories"', '"classes"'), "has 'images' and 'annotations' .* no 'categories'"),
        (lambda text: text.replace('"annotations"', '"boxes"'), "has 'images' and 'categories' .* no 'annotations'"),
    ],
)
def test_files_that_are_nearly_coco(coco: Path, tmp_path: Path, change: Any, said: str) -> None:
    coco.write_text(change(coco.read_text()))
    with pytest.raises(DataError, match=f"train.json {said}"):
        convert_annotations([str(coco)], tmp_path / "out", "byte-level", kinds=["BoxedImage"], num_workers=1)


def test_files_of_one_folder_have_the_same_categories(coco: Path, tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["categories"].append({"id": 1, "name": "cat"})
    (tmp_path / "val.json").write_text(json.dumps(content))
    inputs = [str(coco), str(tmp_path / "val.json")]
    with pytest.raises(DataError, match=r"categories of .*train.json and .*val.json differ .*'car'.*'cat'"):
        convert_annotations(inputs, tmp_path / "out", "byte-level", kinds=["BoxedImage"], num_workers=1)


def test_names_and_ids_of_the_classes_are_kept(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    convert_annotations([str(coco)], out, "byte-level", kinds=["BoxedImage"], num_workers=1)
    wanted = [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}]
    assert json.loads((out / "pack.json").read_text())["categories"] == wanted
    assert stored_categories(sorted(map(str, out.glob("*.tar")))) == wanted
    assert stored_categories([str(tmp_path / "a.tar")]) is None
    last = (out / "recipe.yaml").read_text().splitlines()[-1]
    assert last == """# --model.sampler.init_args.names '["car", "dog"]'"""


def test_an_image_is_one_tile_of_any_size(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    report = convert_annotations([str(coco)], out, "byte-level", kinds=["BoxedImage"], tile_size=8, num_workers=1)
    assert (report.totals.images, report.totals.tiles) == (2, 2)
    data = yaml.safe_load((out / "recipe.yaml").read_text())["data"]
    assert data.keys() == {"tokenizer", "kinds", "train"}
    index = Index.open(sorted(map(str, out.glob("*.tar"))), load_tokenizer("byte-level"), kinds=Kinds([BoxedImage()]))
    assert index.tiles == [None]
