from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.media.images import decode_image
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.demos.handwriting.digit_questions import KINDS, PHRASINGS, answer
from mmcomponents.demos.handwriting.scenes import Order, SceneStyle, draw_scene, load_scans, split_scans

SMALL = {"scenes": 6, "held_out": 3, "val_scenes": 2, "vocab_size": 400}


def open_part(folder: Path, part: str) -> Index:
    return Index.open(sorted(folder.glob(f"{part}-*.tar")), load_tokenizer(folder / "tokenizer"))


def records(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    index = open_part(folder, part)
    for number in range(len(index)):
        yield index.read(number).record


def test_no_scan_is_in_two_parts(handwriting: Path) -> None:
    _, digits = load_scans()
    parts = split_scans(digits, (0.75, 0.05, 0.2), seed=0)
    everything = np.concatenate(parts)
    assert len(everything) == len(set(everything.tolist())) == 1797
    assert all(len(set(digits[part].tolist())) == 10 for part in parts)
    for part, allowed in zip(("train", "val", "test"), parts, strict=True):
        used = {scan for record in records(handwriting, part) for scan in record["scans"]}
        assert used <= set(allowed.tolist())
        assert len(used) > 10


def test_answers_follow_from_the_scans(handwriting: Path) -> None:
    _, digits = load_scans()
    for part in ("train", "val", "test"):
        for record in records(handwriting, part):
            truth = digits[record["scans"]].tolist()
            assert record["digits"] == truth
            questions, answers = record["messages"][::2], record["messages"][1::2]
            assert len(record["kinds"]) == len(set(record["kinds"])) == len(answers)
            for number, (kind, question, given) in enumerate(zip(record["kinds"], questions, answers, strict=True)):
                text = question["content"].removeprefix("<image>\n") if number == 0 else question["content"]
                assert text in PHRASINGS[kind]
                assert given["content"] == answer(kind, truth, record["order"])
            if part == "test":
                assert record["kinds"] == list(KINDS)


def test_each_kind_of_answer() -> None:
    def all_of(digits: list[int], order: Order = "row") -> list[str]:
        return [answer(kind, digits, order) for kind in KINDS]

    assert all_of([8]) == ["8", "1", "8", "Answer: 8", "One digit: an 8."]
    two = ["3 7", "2", "7", "3 + 7 = 10\nAnswer: 10", "Two digits: a 3 on the left and a 7 on the right."]
    assert all_of([3, 7]) == two
    assert all_of([3, 7], "column")[-1] == "Two digits: a 3 at the top and a 7 at the bottom."
    assert all_of([3, 7, 1])[3] == "3 + 7 = 10\n10 + 1 = 11\nAnswer: 11"
    assert all_of([3, 7, 8])[4] == "Three digits from left to right: a 3, a 7 and an 8."
    assert all_of([0, 9, 9, 9], "column")[4] == "Four digits from top to bottom: a 0, a 9, a 9 and a 9."
    assert all_of([4, 2], "grid")[4] == "Two digits row by row: a 4 and a 2."
    with pytest.raises(ValueError, match="'sing'"):
        answer("sing", [1], "row")


STYLE = SceneStyle(56, (20, 36), (9, 2, 2, 2), (2, 2, 1))


def test_scenes() -> None:
    scans, digits = load_scans()
    allowed = np.arange(300)
    seen: dict[int, int] = {}
    shapes = set()
    for number in range(300):
        scene = draw_scene(scans, digits, allowed, STYLE, np.random.default_rng(number), vary=True)
        seen[len(scene.digits)] = seen.get(len(scene.digits), 0) + 1
        grid = Tiling(1, 4, 56)
        shapes.add((scene.image.width // 56, scene.image.height // 56, grid.count(*scene.image.size)))
        cells = [(top // 56, left // 56) for left, top, _ in scene.boxes]
        assert cells == sorted(set(cells))
        assert scene.order == "grid" or len(cells) * 56 == max(scene.image.size)
        cover = np.zeros(scene.image.size[::-1], int)
        for left, top, side in scene.boxes:
            assert 20 <= side <= 36
            assert 0 <= left <= scene.image.width - side
            assert 0 <= top <= scene.image.height - side
            cover[top : top + side, left : left + side] += 1
        assert cover.max() == 1, "digits do not overlap"
        grey = np.asarray(scene.image).astype(int)
        paper = np.median(grey)
        assert (grey[cover == 0] == paper).all(), "ink is inside the boxes"
        for left, top, side in scene.boxes:
            assert paper - grey[top : top + side, left : left + side].min() > 60, "every digit can be seen"
    assert sorted(seen) == [1, 2, 3, 4]
    assert 0.5 < seen[1] / 300 < 0.7
    assert {(1, 1, 1), (2, 1, 3), (3, 1, 4), (4, 1, 5), (1, 2, 3), (2, 2, 5)} <= shapes


def test_scenes_of_one_size_and_kind() -> None:
    scans, digits = load_scans()
    style = SceneStyle(28, (16, 16), (0, 0, 1, 0), (1, 0, 0))
    scene = draw_scene(scans, digits, np.arange(5), style, np.random.default_rng(0), vary=False)
    assert scene.image.size == (84, 28)
    assert [left // 28 for left, _, _ in scene.boxes] == [0, 1, 2], "one digit a tile"
    for bad in (
        {"digit_size": (20, 60)},
        {"counts": (0, 0, 0, 0)},
        {"orders": (-1, 1, 1)},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SceneStyle(**{**vars(style), **bad})  # type: ignore[arg-type]


def test_several_tiles_occur(handwriting: Path) -> None:
    for part in ("train", "test"):
        index = open_part(handwriting, part)
        shapes = [index.columns(shard) for shard in range(len(index.shards))]
        count = np.vectorize(Tiling(1, 4, 56).count)
        tiles = np.concatenate([count(rows.image_width, rows.image_height) for rows in shapes])
        assert {1, 3} <= set(tiles.tolist())
        assert (tiles > 1).mean() > 0.2


def test_the_same_arguments_make_the_same_bytes(tmp_path: Path) -> None:
    first, second = (Path(make_handwriting(str(tmp_path / name), **SMALL)) for name in "ab")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert {"dataset.json", "train-000000.tar", "test-000000.index.safetensors"} <= {str(name) for name in names}
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    third = Path(make_handwriting(str(tmp_path / "c"), **SMALL, seed=1))
    assert (third / "train-000000.tar").read_bytes() != (first / "train-000000.tar").read_bytes()


def test_a_smaller_data_set_leaves_no_shards_of_a_larger(tmp_path: Path) -> None:
    make_handwriting(str(tmp_path), **SMALL, samples_per_shard=2)
    assert len(list(tmp_path.glob("train-*.tar"))) == 3
    done = []
    make_handwriting(str(tmp_path), **SMALL, progress=lambda *numbers: done.append(numbers))
    left = {"train-000000.tar", "train-000000.index.safetensors"}
    assert {path.name for path in tmp_path.glob("train-*")} == left
    assert done[-1] == (11, 11)
    assert json.loads((tmp_path / "dataset.json").read_text())["scenes"] == {"train": 6, "val": 2, "test": 3}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photos-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos-000000\.tar"):
        make_handwriting(str(foreign), **SMALL)
    assert (foreign / "photos-000000.tar").exists()


def test_pictures_decode(handwriting: Path) -> None:
    index = open_part(handwriting, "test")
    (data,) = index.read(0).images
    rows = index.columns(0)
    assert decode_image(data).size == (rows.image_width[0], rows.image_height[0])
