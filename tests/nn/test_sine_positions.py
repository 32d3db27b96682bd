"""Sine embeddings of places and boxes."""

from __future__ import annotations

import math

import pytest
import torch

from mmcomponents.nn.sine_positions import grid_embedding, sine_embedding, time_embedding


def test_frequencies_have_sine_and_cosine_side_by_side() -> None:
    found = sine_embedding(torch.tensor([[0.25, 1.0]]), 4, temperature=100.0)[0]
    expected = []
    for share in (0.25, 1.0):
        for step in (0, 1):
            angle = 2 * math.pi * share / 100.0 ** (2 * step / 4)
            expected += [math.sin(angle), math.cos(angle)]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


def test_y_comes_before_x() -> None:
    one, other = grid_embedding(torch.tensor([[0.3, 0.7], [0.9, 0.7]]), 16)
    assert torch.equal(one[:8], other[:8])
    assert not torch.equal(one[8:], other[8:])
    assert torch.equal(one[:8], sine_embedding(torch.tensor([[0.7]]), 8)[0])


def test_noise_levels_are_sines_then_cosines_of_falling_frequencies() -> None:
    found = time_embedding(torch.tensor([0, 3]), 8)
    assert found[0].tolist() == [0.0] * 4 + [1.0] * 4
    for place in range(4):
        angle = 3 * math.exp(-math.log(10_000) * place / 3)
        assert float(found[1, place]) == pytest.approx(math.sin(angle), abs=1e-6)
        assert float(found[1, 4 + place]) == pytest.approx(math.cos(angle), abs=1e-6)
