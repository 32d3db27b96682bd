"""The projector of this package by itself, and in mmcomponents' contract tests.

In the folder above, with the package installed:

    pytest
"""

from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.testing import Ranks, check_component
from pointing import PlaceProjector
from pointing.place_projector import places


def test_it_passes_the_contract_tests(two_ranks: Ranks) -> None:
    check_component("projector", PlaceProjector, ranks=two_ranks)


def test_equal_tokens_at_other_places_are_projected_to_other_values() -> None:
    projector = PlaceProjector(6, 8)
    tokens = torch.ones(2, 6, 6)
    projected = projector(VisualFeatures([FeatureMap(tokens, (2, 3))]))
    assert projected.shape == (2, 6, 8)
    assert torch.equal(projected[0], projected[1])
    assert torch.pdist(projected[0]).min() > 0.1


def test_a_place_is_that_of_its_middle() -> None:
    found = places((1, 2), 1)  # row and column, sine and cosine of each
    expected = torch.tensor([[1.0, 0.0, 0.5**0.5, 0.5**0.5], [1.0, 0.0, 0.5**0.5, -(0.5**0.5)]])
    torch.testing.assert_close(found, expected)


def test_no_frequency_is_refused() -> None:
    with pytest.raises(ValueError, match="num_frequencies must be at least 1, got 0"):
        PlaceProjector(6, 8, num_frequencies=0)
