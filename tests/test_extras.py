from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from mmcomponents.batch import Pairs, Steps
from mmcomponents.extras import Actions, Boxes, Extra, Pictures, Place
from mmcomponents.movable import Exact


def place(segment: int = 2, start: int = 10, tiles: tuple[int, ...] = (), tokens: int = 8) -> Place:
    none = torch.zeros(0, dtype=torch.int64)
    return Place(segment, start, none, torch.tensor(tiles, dtype=torch.int64), tokens)


def boxes(*tiles: int) -> Boxes:
    count = len(tiles)
    return Boxes(Exact(torch.arange(4.0 * count).view(count, 4)), torch.arange(count), torch.tensor(tiles))


def test_boxes_point_to_the_tiles_of_the_pack() -> None:
    placed = boxes(0, 2, 2).placed(place(tiles=(5, 6, 9)))
    assert placed.tile.tolist() == [5, 9, 9]
    joined = Boxes.join([Boxes.none(), placed, boxes(1).placed(place(tiles=(0, 1)))])
    assert joined.tile.tolist() == [5, 9, 9, 1]
    assert joined.label.tolist() == [0, 1, 2, 0]
    assert joined.cxcywh.tensor.shape == (4, 4)
    assert joined.cxcywh.tensor.dtype == torch.float32


def test_a_box_outside_the_tiles_is_an_error() -> None:
    for tile in (3, -1):
        with pytest.raises(ValueError, match=rf"the boxes are in the tiles \[{tile}\], and there are 2"):
            boxes(tile).placed(place(tiles=(5, 6)))
    wrong = replace(boxes(0), cxcywh=Exact(torch.zeros(1, 4, dtype=torch.float64)))
    with pytest.raises(ValueError, match="cxcywh must be fp32 of"):
        wrong.placed(place(tiles=(5,)))
    with pytest.raises(ValueError, match="label and tile must be int64"):
        replace(boxes(0), label=torch.zeros(1)).placed(place(tiles=(5,)))


def test_a_field_has_a_row_for_each_item() -> None:
    with pytest.raises(
        ValueError, match=r"a row for each item in cxcywh, label, tile, segment, and there are \[2, 1, 2\]"
    ):
        replace(boxes(0, 1), label=torch.zeros(1, dtype=torch.int64)).check()
    with pytest.raises(ValueError, match="mask is a single number"):
        Actions(Exact(torch.zeros(1, 2)), torch.tensor(True)).check()
    with pytest.raises(ValueError, match="mask is list, not a tensor"):
        Actions(Exact(torch.zeros(1, 2)), [True]).check()  # type: ignore[arg-type]
    Pictures(Exact(torch.zeros(1, 3, 2, 2))).check()


def test_actions_are_joined_in_order() -> None:
    one = Actions(Exact(torch.tensor([[1.0, 2.0]])), torch.tensor([True]))
    other = Actions(Exact(torch.tensor([[3.0, 4.0], [5.0, 6.0]])), torch.tensor([True, False]))
    joined = Actions.join([Actions.none(2), one.placed(place()), other.placed(place())])
    assert joined.values.tensor.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert joined.mask.tolist() == [True, True, False]
    assert Actions.join([Actions.none(2)]).mask.dtype == torch.bool


def test_pictures_have_all_conditions_or_none() -> None:
    def picture(value: float) -> Exact:
        return Exact(torch.full((1, 3, 2, 2), value))

    plain = Pictures.join([Pictures(picture(1.0)), Pictures(picture(2.0))])
    assert plain.target.tensor[:, 0, 0, 0].tolist() == [1, 2]
    assert plain.reference is plain.canvas is None
    edited = Pictures.join([Pictures(picture(1.0), picture(3.0)), Pictures(picture(2.0), picture(4.0))])
    assert edited.reference is not None
    assert edited.reference.tensor[:, 0, 0, 0].tolist() == [3, 4]
    with pytest.raises(ValueError, match=r"^1 of 2 samples have reference: all or none must have it$"):
        Pictures.join([Pictures(picture(1.0), picture(3.0)), Pictures(picture(2.0))])


def test_pairs_and_steps_are_placed_by_segment_and_token() -> None:
    pairs = Pairs(torch.tensor([0]), torch.tensor([1])).placed(place(segment=4))
    assert (pairs.chosen.tolist(), pairs.rejected.tolist()) == ([4], [5])
    steps = Steps.of([0, 3], [0, 0], [1, 0]).placed(place(segment=4, start=10, tokens=4))
    with pytest.raises(ValueError, match=r"steps at \[0, 3\] in a segment of 3 tokens"):
        Steps.of([0, 3], [0, 0], [1, 0]).placed(place(tokens=3))
    assert (steps.score_at.tolist(), steps.sample.tolist(), steps.label.tolist()) == ([10, 13], [4, 4], [1, 0])
    assert len(Steps.join([Steps.of(), steps]).label) == 2
    with pytest.raises(ValueError, match="1 of 2 samples have reference_logps"):
        Pairs.join([pairs, Pairs(pairs.chosen, pairs.rejected, Exact(torch.zeros(1, 2)))])


def test_fields_of_ones_own_are_joined_without_more() -> None:
    @dataclass
    class Depths(Extra):
        depth: Tensor
        exact: Exact
        sure: Tensor | None = None

    parts = [Depths(torch.full((n,), float(n)), Exact(torch.ones(n), torch.zeros(n))) for n in (1, 2)]
    joined = Depths.join([part.placed(place()) for part in parts])
    assert joined.depth.tolist() == [1, 2, 2]
    assert [len(tensor) for tensor in joined.exact] == [3, 3]
    assert joined.sure is None
    assert joined.to("meta").depth.is_meta
    with pytest.raises(AttributeError, match="Depths has no field 'other'"):
        joined.other = 1  # type: ignore[attr-defined]
