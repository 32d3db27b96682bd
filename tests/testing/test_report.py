from __future__ import annotations

import math

import pytest
import torch

from mmcomponents.testing import ContractError, Report, Result
from mmcomponents.testing.report import Findings


def test_a_difference_is_relative_to_one_plus_the_value() -> None:
    found = Findings()
    found.close("x", torch.tensor([1.0, 10.0]), torch.tensor([1.0, 10.5]))
    assert found.failures == ["x differs by 0.043 (allowed 1e-05) at [1]: 10, expected 10.5"]
    assert found.largest == pytest.approx(0.5 / 11.5)
    found = Findings()
    found.close("x", torch.tensor([1.0, 10.0]), torch.tensor([1.0, 10.5]), allowed=0.05)
    assert not found.failures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(value) -> None:
    found = Findings()
    found.close("x", torch.tensor([value]), torch.tensor([1.0]), allowed=100.0)
    found.close("x", torch.tensor([1.0]), torch.tensor([value]), allowed=100.0)
    assert len(found.failures) == 2
    same = Findings()
    same.equal("x", torch.tensor([value]), torch.tensor([value]))
    assert bool(same.failures) == math.isnan(value), "NaN is wrong wherever it is"


def test_shapes_and_empty_tensors() -> None:
    found = Findings()
    found.close("x", torch.zeros(2), torch.zeros(1, 2))
    assert found.failures == ["x has the shape [2], expected [1, 2]"]
    found.equal("y", torch.zeros(0), torch.zeros(0))
    found.equal("scalar", torch.tensor(1.0), torch.tensor(2.0))
    assert found.failures[1:] == ["scalar differs by 0.33 (allowed 0): 1, expected 2"]


def test_integers_are_compared_exactly() -> None:
    found = Findings()
    found.equal("ticks", torch.tensor([2**40 + 1]), torch.tensor([2**40]))
    assert len(found.failures) == 1


def test_two_outputs_have_to_differ() -> None:
    found = Findings()
    found.differ("outputs", torch.ones(2), torch.ones(2), least=1e-3)
    found.differ("outputs", torch.ones(2), torch.zeros(2), least=1e-3)
    found.differ("outputs", torch.full((2,), math.nan), torch.zeros(2), least=1e-3)
    assert len(found.failures) == 2


def test_a_long_list_of_failures_is_shortened() -> None:
    found = Findings()
    for number in range(20):
        found.true(number > 100, f"failure {number}")
    lines = Result.of("a_test", found).detail.splitlines()
    assert lines[:2] == ["failure 0", "failure 1"]
    assert lines[-1] == "and 12 more of 20 comparisons"
    assert len(lines) == 9


def test_a_report_with_failures_is_an_assertion_error() -> None:
    report = Report("projector X", [Result("a", "passed", "", 1e-7), Result("b", "failed", "one\ntwo", 1.0)])
    with pytest.raises(AssertionError) as caught:
        report.raise_for_failures()
    assert isinstance(caught.value, ContractError)
    assert caught.value.report is report
    assert str(report).splitlines() == [
        "projector X: 1 passed, 1 failed",
        "  passed          a                            largest difference 1e-07",
        "  failed          b                            one",
        "                                               two",
    ]
