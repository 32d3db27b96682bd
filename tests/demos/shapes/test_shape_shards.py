"""The data set of coloured shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcomponents.data.format.shards import json_member, list_shard, read_members
from mmcomponents.demos.shapes import make_shapes
from mmcomponents.demos.shapes.shape_scenes import SIDE


def records(folder: Path, part: str) -> list[dict[str, str]]:
    shard = folder / f"{part}-000000.tar"
    texts = read_members(str(shard), [json_member(found.members) for found in list_shard(shard)])
    return [json.loads(text) for text in texts]


def test_requests_of_the_test_are_not_those_of_the_training(tmp_path: Path) -> None:
    folder = Path(make_shapes(str(tmp_path / "shapes"), 60, 5, 20))
    train, test = records(folder, "train"), records(folder, "test")
    assert (len(train), len(test)) == (60, 20)
    assert not {row["request"] for row in train} & {row["request"] for row in test}
    assert all("<box>" in row["reasoning"] for row in train)
    assert json.loads((folder / "dataset.json").read_text())["side"] == SIDE


def test_the_same_arguments_give_the_same_bytes_and_a_set_without_reasoning_has_empty_texts(tmp_path: Path) -> None:
    one, two, bare = (
        Path(make_shapes(str(tmp_path / name), 4, 1, 2, reasoning=name != "bare")) for name in ("a", "b", "bare")
    )
    assert (one / "train-000000.tar").read_bytes() == (two / "train-000000.tar").read_bytes()
    assert [row["reasoning"] for row in records(bare, "train")] == [""] * 4
    with pytest.raises(ValueError, match="must be from 1 to"):
        make_shapes(str(tmp_path / "none"), 0)
