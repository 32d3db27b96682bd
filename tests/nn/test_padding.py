"""Conversion between packs and padded batches: values, mask and aligned last columns."""

from __future__ import annotations

import torch

import tiny
from mmcomponents.nn.padding import Padded

LAYOUT = tiny.pack([("t", 3)], [("t", 1)], [("t", 2)]).layout
X = torch.arange(1.0, 7.0)[:, None]


def test_without_a_past_the_right_is_padded() -> None:
    padded = Padded(LAYOUT, [0, 0, 0])
    assert padded.pad(X)[..., 0].tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]
    assert padded.mask.int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert padded.positions.tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 0]]
    assert torch.equal(padded.unpad(padded.pad(X)), X)


def test_after_a_past_the_left_is_padded_and_the_last_columns_stand_together() -> None:
    padded = Padded(LAYOUT, [1, 4, 2])
    assert padded.pad(X)[..., 0].tolist() == [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
    assert padded.mask.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert padded.positions.tolist() == [[1, 2, 3], [0, 0, 4], [0, 2, 3]]
    assert torch.equal(padded.unpad(padded.pad(X)), X)
    block = torch.arange(1, 9.0).expand(3, 2, 8)[..., None]  # capacity 8; position p holds p + 1
    keys = padded.align(block)
    assert keys.shape == (3, 2, 5, 1)
    for row, known in zip(keys, padded.known, strict=True):
        assert row[1, -known:, 0].tolist() == list(range(1, known + 1))


def test_segments_of_one_length_are_not_padded() -> None:
    layout = tiny.pack([("t", 3)], [("t", 3)]).layout
    for past in ([0, 0], [2, 5]):
        padded = Padded(layout, past)
        assert padded.is_even
        assert padded.pad(X)[..., 0].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert torch.equal(padded.unpad(padded.pad(X)), X)


def test_gradients_go_through() -> None:
    x = X.clone().requires_grad_()
    padded = Padded(LAYOUT)
    padded.unpad(padded.pad(x) * 3).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 3.0))
