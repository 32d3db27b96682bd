"""Boxes as centre and size and as corners, and their overlap."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.nn.box_geometry import centred, corners, generalized_iou, inverse_sigmoid


def test_corners_and_centres_are_inverse() -> None:
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.6]])
    assert torch.allclose(corners(boxes), torch.tensor([[0.4, 0.1, 0.6, 0.7]]))
    drawn = torch.rand(20, 4)
    assert torch.allclose(centred(corners(drawn)), drawn, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (2, 0, 3, 1), -1 / 3),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),
    ],
    ids=["equal", "overlapping", "apart", "one inside", "points"],
)
def test_generalized_iou(one: tuple[float, ...], other: tuple[float, ...], expected: float) -> None:
    a, b = torch.tensor([one], dtype=torch.float32), torch.tensor([other], dtype=torch.float32)
    assert float(generalized_iou(a, b)) == pytest.approx(expected, abs=1e-6)
    assert float(generalized_iou(b, a)) == pytest.approx(expected, abs=1e-6)


def test_all_pairs() -> None:
    one, other = corners(torch.rand(3, 4)), corners(torch.rand(5, 4))
    pairs = generalized_iou(one[:, None], other[None])
    assert pairs.shape == (3, 5)
    assert torch.allclose(pairs[1, 4], generalized_iou(one[1], other[4]))


def test_inverse_sigmoid() -> None:
    x = torch.tensor([0.2, 0.5, 0.9])
    assert torch.allclose(inverse_sigmoid(x).sigmoid(), x)
    assert inverse_sigmoid(torch.tensor([0.0, 1.0])).isfinite().all()
