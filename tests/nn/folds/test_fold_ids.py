"""Folds of grids of ids."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.mergers import Fold
from mmcomponents.nn.folds import fold_ids, unfold_ids


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(64, 64, 2, 8), (4, 6, 2, 3), (4, 4, 1, 1)])
def test_unfold_is_the_inverse_of_fold(height: int, width: int, rows: int, columns: int) -> None:
    ids = torch.randint(100, (3, height, width))
    folds = fold_ids(ids, rows, columns)
    assert folds.shape == (3 * height * width // rows // columns, rows * columns)
    assert torch.equal(unfold_ids(folds, (height, width), rows, columns), ids)


def test_the_first_fold_of_the_paper_is_two_rows_of_eight() -> None:
    folds = fold_ids(torch.arange(64 * 64).view(1, 64, 64), 2, 8)
    assert folds.shape == (256, 16)
    assert folds[0].tolist() == [*range(8), *range(64, 72)]
    assert folds[1].tolist() == [*range(8, 16), *range(72, 80)]


def test_the_merger_stacks_the_vectors_of_the_ids_of_a_fold() -> None:
    ids = torch.randint(100, (2, 4, 8))
    features = VisualFeatures([FeatureMap(ids.flatten(1)[..., None].float(), (4, 8))])
    merger = Fold(1, 2, 4)
    assert merger.num_tokens((4, 8)) == 4
    assert torch.equal(merger(features).primary.tokens.flatten(0, 1).long(), fold_ids(ids, 2, 4))


def test_errors_have_both_numbers() -> None:
    with pytest.raises(ValueError, match="a fold of 2 x 8 does not divide a grid of 4 x 12 ids"):
        fold_ids(torch.zeros(1, 4, 12, dtype=torch.long), 2, 8)
    with pytest.raises(ValueError, match="48 ids in folds of 16 are no whole pictures of 4 x 8 ids in folds of 2 x 8"):
        unfold_ids(torch.zeros(3, 16, dtype=torch.long), (4, 8), 2, 8)
    with pytest.raises(ValueError, match="32 ids in folds of 8 are no whole pictures"):
        unfold_ids(torch.zeros(4, 8, dtype=torch.long), (4, 8), 2, 8)
