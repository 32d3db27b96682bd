"""Tests of numbers in configurations."""

from __future__ import annotations

from typing import Any

import pytest

from mmcomponents.checkpoints.checks.config_values import integer, number


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None, [2], float("nan"), 10**400])
def test_sizes_that_are_no_whole_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^hidden_size must be"):
        integer({"hidden_size": value}, "hidden_size", 4)


@pytest.mark.parametrize("value", [-1.0, "2", True, None, float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^eps must be"):
        number({"eps": value}, "eps", 1e-6)


def test_missing_values_have_a_default_or_are_required() -> None:
    assert (integer({}, "a", 4), number({}, "a", 0.5), integer({"a": 3}, "a")) == (4, 0.5, 3)
    with pytest.raises(KeyError):
        integer({}, "a")
