"""Tests of the check for values that are not finite."""

from __future__ import annotations

import pytest
import torch

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.finite import check_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_the_check_names_place_tensor_and_counts(dtype: torch.dtype) -> None:
    value = torch.ones(40, 50)
    value[1, 2:5] = float("nan")
    value[3, 4] = -float("inf")
    with pytest.raises(CheckpointError, match=r"^a/model\.safetensors: x\.weight has 3 NaN and 1 Inf in 2,000 values$"):
        check_finite("a/model.safetensors", "x.weight", value.to(dtype))
    value[3, 4] = 0
    with pytest.raises(CheckpointError, match=r"has 3 NaN in"):
        check_finite("a", "x", value.to(dtype))


@pytest.mark.parametrize("values", [[float("inf"), -float("inf")], [float("inf"), 1.0], [-float("inf"), 1.0]])
def test_infinities_are_found_alone_and_where_they_cancel(values: list[float]) -> None:
    with pytest.raises(CheckpointError, match=r"has [12] Inf in 2 values"):
        check_finite("a", "x", torch.tensor(values))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_large_values_whose_sum_overflows_are_finite(dtype: torch.dtype) -> None:
    check_finite("a", "x", torch.full((64,), torch.finfo(dtype).max, dtype=dtype))


def test_integers_and_empty_tensors_are_finite() -> None:
    check_finite("a", "x", torch.arange(3))
    check_finite("a", "x", torch.empty(0))
