"""Guidance of four branches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcomponents.generation.picture_guidance import branch_weights, guided

ESTIMATES = {
    (False, False, False): 1.0, (False, False, True): 10.0, (True, False, True): 100.0, (True, True, True): 1000.0,
}  # fmt: skip


def estimate(asked: list[tuple[bool, bool, bool]], given: tuple[bool, bool, bool]) -> Tensor:
    asked.append(given)
    return torch.tensor(ESTIMATES[given])


@pytest.mark.parametrize("weights", [(7.5, 4.0, 1.0), (4.0, 3.0, 1.5), (2.0, 0.0, 1.0), (0.0, 0.0, 0.0)])
def test_it_is_the_formula_of_the_paper(weights: tuple[float, float, float]) -> None:
    semantic, spatial, reference = weights
    none, picture, words, everything = ESTIMATES.values()
    expected = none + semantic * (words - picture) + spatial * (everything - words) + reference * (picture - none)
    found = guided(branch_weights(*weights), lambda given: estimate([], given))
    assert float(found) == pytest.approx(expected)
    assert sum(branch_weights(*weights)) == pytest.approx(1)


def test_only_branches_with_a_weight_are_computed() -> None:
    asked: list[tuple[bool, bool, bool]] = []
    assert float(guided(branch_weights(1, 1, 1), lambda given: estimate(asked, given))) == 1000
    assert asked == [(True, True, True)]
    asked.clear()
    guided(branch_weights(2, 0, 1), lambda given: estimate(asked, given))  # free of the layout
    assert asked == [(False, False, True), (True, False, True)]
