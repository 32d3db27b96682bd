"""Dataclasses of tensors: moved as a whole, never cast, and without attributes that a copy would lose."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor

from mmcomponents.movable import Exact, Movable


@dataclass
class Inner(Movable):
    value: Tensor
    exact: Exact


@dataclass
class Outer(Movable):
    number: int
    tensor: Tensor
    inner: Inner | None = None
    named: dict[str, Inner] = field(default_factory=dict)

    def _remedy(self) -> str:
        return ": use `named`"


def outer() -> Outer:
    def inner() -> Inner:
        return Inner(torch.ones(2), Exact(torch.ones(2), torch.zeros(1)))

    return Outer(3, torch.ones(1), inner(), {"a": inner()})


def test_tensors_at_any_depth_are_moved() -> None:
    moved = outer().to("meta")
    assert moved.number == 3
    assert moved.inner is not None
    for inner in (moved.inner, moved.named["a"]):
        assert inner.value.is_meta
        assert [tensor.is_meta for tensor in inner.exact] == [True, True]
    assert moved.tensor.is_meta
    assert Outer(1, torch.ones(1)).to("meta").inner is None


def test_exact_tensors_are_not_cast() -> None:
    cast = HalfPrecision("bf16-true").convert_input(outer())
    assert cast.tensor.dtype == cast.inner.value.dtype == torch.bfloat16
    for inner in (cast.inner, cast.named["a"]):
        assert [tensor.dtype for tensor in inner.exact] == [torch.float32, torch.float32]


def test_copies_keep_all_fields() -> None:
    one = outer()
    for copy in (replace(one, number=4), pickle.loads(pickle.dumps(one))):
        assert torch.equal(copy.named["a"].exact.tensors[0], torch.ones(2))
        with pytest.raises(AttributeError):
            copy.other = 1


def test_an_unknown_attribute_is_an_error_with_the_near_field_and_the_remedy() -> None:
    one = outer()
    with pytest.raises(AttributeError, match=r"^Outer has no field 'tensr'; did you mean 'tensor'\?: use `named`$"):
        one.tensr = torch.ones(1)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"^Outer has no field 'boxes': use `named`$"):
        one.boxes = torch.ones(1)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"^Inner has no field 'boxes'$"):
        Inner(torch.ones(1), Exact(torch.ones(1))).boxes = 1  # type: ignore[attr-defined]
    one.number = 4
    assert one.number == 4


def test_several_exact_tensors_are_unpacked() -> None:
    both = Exact(torch.ones(1), torch.zeros(1))
    one, other = both
    assert (one.item(), other.item()) == (1, 0)
    with pytest.raises(ValueError, match="2 tensors, not one"):
        _ = both.tensor
    with pytest.raises(ValueError, match="at least one tensor"):
        Exact()
    assert repr(both) == "Exact(torch.float32 [1], torch.float32 [1])"
