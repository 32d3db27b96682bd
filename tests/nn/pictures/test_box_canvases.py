"""Boxes as pictures."""

from __future__ import annotations

import torch

from mmcomponents.nn.pictures import canvases, mean_of_boxes

RED = torch.tensor([[1.0, 0.0, 0.0]])


def test_a_box_covers_its_share_of_the_canvas_with_its_colour() -> None:
    (drawn,) = canvases(torch.tensor([[0.25, 0.25, 0.75, 0.75]]), RED, (8, 12))
    assert drawn.shape == (3, 8, 12)
    inside = torch.zeros(8, 12, dtype=torch.bool)
    inside[2:6, 3:9] = True
    assert torch.equal(drawn[0], torch.where(inside, 1.0, -1.0))
    assert torch.equal(drawn[1:], torch.full((2, 8, 12), -1.0))


def test_edges_are_cut_off_and_a_thin_box_has_a_pixel() -> None:
    boxes = torch.tensor([[-0.5, 0.5, 0.25, 1.7], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0, 1.2, 1.2]])
    drawn = canvases(boxes, RED.expand(3, 3), (4, 4))[:, 0] > 0
    assert drawn[0].nonzero().tolist() == [[2, 0], [3, 0]]
    assert drawn[1].nonzero().tolist() == [[2, 2]]
    assert drawn[2].nonzero().tolist() == [[3, 3]]


def test_the_mean_over_boxes_is_linear_and_an_owner_without_boxes_has_the_empty_canvas() -> None:
    maps, none = torch.randn(3, 2, 4), torch.randn(2, 4)
    found = mean_of_boxes(maps, torch.tensor([2, 0, 2]), none, 4)
    torch.testing.assert_close(found[2], (maps[0] + maps[2]) / 2)
    torch.testing.assert_close(found[0], maps[1])
    assert torch.equal(found[1], none)
    assert torch.equal(found[3], none)
