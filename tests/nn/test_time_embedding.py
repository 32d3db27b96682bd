"""Embedding of noise levels."""

from __future__ import annotations

import math

import pytest
import torch

from mmcomponents.nn.time_embedding import time_embedding


def test_sines_then_cosines_of_falling_frequencies() -> None:
    found = time_embedding(torch.tensor([0, 3]), 8)
    assert found[0].tolist() == [0.0] * 4 + [1.0] * 4
    for place in range(4):
        angle = 3 * math.exp(-math.log(10_000) * place / 3)
        assert float(found[1, place]) == pytest.approx(math.sin(angle), abs=1e-6)
        assert float(found[1, 4 + place]) == pytest.approx(math.cos(angle), abs=1e-6)
