"""Boxes of detectors follow their images, or the image is skipped and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.chat.kinds import BoxedImage, Kinds
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.convert import convert_annotations
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import open_shard
from mmcomponents.data.media.exif_turns import TURNS, turned_back
from mmcomponents.data.media.images import decode_image

BOX = [18, 6, 45, 21]
"""Pixels of the file; those inside are white."""


def picture(folder: Path, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[6:21, 18:45] = 255
    Image.fromarray(pixels).save(folder / "a.png", exif=exif)
    return (folder / "a.png").read_bytes()


def coco(folder: Path, width: int, height: int, crowd: bool = False) -> str:
    left, top, right, bottom = BOX
    box = {"image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top], "area": 5}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": width, "height": height}],
        "annotations": [box, {**box, "iscrowd": 1}] if crowd else [box],
        "categories": [{"id": 1, "name": "white"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return str(folder / "train.json")


def converted(folder: Path, path: str, **more: Any) -> Any:
    out = folder / "shards"
    return convert_annotations([path], out, "byte-level", kinds=["BoxedImage"], num_workers=1, **more)


def stored(folder: Path) -> tuple[dict[str, Any], bytes]:
    shards = sorted(map(str, (folder / "shards").glob("*.tar")))
    index = Index.open(shards, load_tokenizer("byte-level"), kinds=Kinds([BoxedImage()]))
    sample = index.read(0)
    return sample.record, sample.images[0]


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
def test_boxes_turn_with_the_image(tmp_path: Path, orientation: int) -> None:
    picture(tmp_path, orientation)
    report = converted(tmp_path, coco(tmp_path, 90, 60, crowd=True))
    record, data = stored(tmp_path)
    pixels = np.array(decode_image(data).convert("L"))
    inside = np.zeros_like(pixels)
    left, top, right, bottom = record["boxes"][0]
    inside[top:bottom, left:right] = 255
    assert (pixels == inside).all()
    assert record["size"] == [pixels.shape[1], pixels.shape[0]]
    assert record["crowds"][0]["box"] == record["boxes"][0]
    assert report.totals.turned_boxes == (orientation != 1)
    assert record.get("turned_by", 1) == orientation
    if orientation in TURNS:
        assert turned_back((left, top, right, bottom), orientation, *record["size"]) == tuple(BOX)


def test_turned_images_may_be_refused(tmp_path: Path) -> None:
    picture(tmp_path, 6)
    report = converted(tmp_path, coco(tmp_path, 90, 60), turned_boxes="refuse")
    assert report.codes == {"bad_field": 1}
    assert "before its EXIF orientation turns it" in report.examples["bad_field"]["reason"]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (180, 120), (60, 90)])
def test_another_size_is_counted_and_named(tmp_path: Path, width: int, height: int) -> None:
    picture(tmp_path, 1)
    report = converted(tmp_path, coco(tmp_path, width, height))
    assert report.codes == {"bad_field": 1}
    assert (
        f"gives {width} x {height} as the size of the image, which has 90 x 60"
        in (report.examples["bad_field"]["reason"])
    )


def test_an_index_names_shards_of_other_programs_with_wrong_sizes(tmp_path: Path) -> None:
    record = {"boxes": [BOX], "labels": [0], "size": [90, 60], "source": "a"}
    shard = tmp_path / "a-000000.tar"
    with open_shard(shard) as file:
        file.write("right", record, [("png", picture(tmp_path, 1))], {})
        file.write("turned", record, [("png", picture(tmp_path, 6))], {})
    kinds = Kinds([BoxedImage()])
    build_index(shard, load_tokenizer("byte-level"), kinds=kinds)
    header = Index.open([str(shard)], load_tokenizer("byte-level"), kinds=kinds)._headers[0]
    assert list(header.problems) == [1]
    assert "boxes are of an image of 90 x 60 and the file has 60 x 90" in header.problems[1]
