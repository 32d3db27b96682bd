"""Results of operations on the meta device that are made from remembered shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmcomponents.training.memory.meta_results import MetaResults

ATEN = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def layout(out: Any) -> Any:
    if isinstance(out, list | tuple):
        return [layout(item) for item in out]
    return out if out is None else (out.shape, out.stride(), out.dtype, out.device, out.untyped_storage().nbytes())


CALLS = [
    (ATEN.mm.default, (meta(3, 4), meta(4, 5))),
    (ATEN.add.Tensor, (meta(3, 4).t(), meta(4, 3))),
    (ATEN.cat.default, ([meta(2, 3), meta(4, 3)],)),
    (ATEN.grid_sampler_2d.default, (meta(2, 3, 8, 8), meta(2, 5, 4, 2), 0, 0, False)),
    (ATEN.native_layer_norm.default, (meta(2, 8), [8], None, None, 1e-5)),
    (ATEN._to_copy.default, (meta(2, 8),)),
]


@pytest.mark.parametrize(("func", "args"), CALLS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_remembered_result_is_like_the_first(func: Any, args: Any) -> None:
    call = MetaResults()
    expected = layout(func(*args))
    assert layout(call(func, args, {})) == expected
    assert layout(call(func, args, {})) == expected
    assert len(call._known) == 1


def test_an_operation_is_computed_once() -> None:
    call, counted = MetaResults(), []

    class Counted:
        _schema = ATEN.mm.default._schema

        def __call__(self, *args: Any) -> Tensor:
            counted.append(args)
            return ATEN.mm.default(*args)

    func = Counted()
    for columns in (5, 5, 6, 5):
        assert call(func, (meta(3, 4), meta(4, columns)), {}).shape == (3, columns)
    assert len(counted) == 2


def test_what_the_result_depends_on_is_told_apart() -> None:
    call, whole = MetaResults(), meta(3, dtype=torch.int64)
    assert call(ATEN.add.Tensor, (whole, 1), {}).dtype == torch.int64
    assert call(ATEN.add.Tensor, (whole, 1.0), {}).dtype == torch.float32
    assert call(ATEN.add.Tensor, (meta(3), meta(3)), {"alpha": 1}).dtype == torch.float32
    assert call(ATEN.sum.dim_IntList, (meta(3, 4), [0], True), {}).shape == (1, 4)
    assert call(ATEN.sum.dim_IntList, (meta(3, 4), [0], False), {}).shape == (4,)
    assert call(ATEN._to_copy.default, (meta(3),), {"dtype": torch.bfloat16}).dtype == torch.bfloat16
    assert call(ATEN._to_copy.default, (meta(3),), {"dtype": torch.float16}).dtype == torch.float16


def test_views_changes_in_place_and_real_values_are_not_remembered() -> None:
    call, base = MetaResults(), meta(4, 3)
    for _ in range(2):
        assert call(ATEN.t.default, (base,), {}).untyped_storage() is base.untyped_storage()
        assert call(ATEN.add_.Tensor, (base, base), {}) is base
        assert call(ATEN._unsafe_view.default, (base, [12]), {}).untyped_storage() is base.untyped_storage()
        assert call(ATEN.add.Tensor, (torch.ones(2), torch.ones(2)), {}).tolist() == [2.0, 2.0]
        assert call(ATEN.mul.Tensor, (base, torch.tensor(2.0)), {}).shape == (4, 3)
    assert not call._known
