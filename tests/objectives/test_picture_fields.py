"""Pictures and boxes of a pack."""

from __future__ import annotations

import torch

import got
import tiny
from mmcomponents.objectives.picture_fields import picture_fields


def test_boxes_belong_to_the_pictures_of_their_segments() -> None:
    how = got.renderer()
    made = got.packed([got.sample(number=n, reasoning=got.TEXT if n != 1 else "") for n in range(3)], how)
    found = picture_fields(made, got.SIDE)
    assert found.owner.tolist() == [0, 0, 2, 2]
    torch.testing.assert_close(found.box[0], torch.tensor([0.0, 0.25, 0.5, 0.75]))
    assert found.colour[0].tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(found.target[0, 0], torch.ones(got.SIDE, got.SIDE))


def test_a_pack_without_pictures_has_a_black_one() -> None:
    found = picture_fields(tiny.pack([("t", 3)]), 8)
    assert torch.equal(found.target, torch.full((1, 3, 8, 8), -1.0))
    assert torch.equal(found.reference, found.target)
    assert not len(found.box)
