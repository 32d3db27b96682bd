from __future__ import annotations

import pytest
import torch

from mmcomponents.nn import linear as module
from mmcomponents.nn.linear import Linear, linear


@pytest.mark.parametrize("shape", [(1,), (2,), (8,), (32,), (33,), (2, 3)])
@pytest.mark.parametrize(("wide", "bias"), [(3072, True), (1000, False), (260, True), (7, False)])
def test_it_is_torchs_linear(shape: tuple[int, ...], wide: int, bias: bool) -> None:
    layer, x = Linear(20, wide, bias=bias), torch.randn(*shape, 20)
    with torch.no_grad():
        expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert isinstance(layer, torch.nn.Linear)


def test_small_inputs_use_batched_products_only_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    own = torch.bmm
    monkeypatch.setattr(module.torch, "bmm", lambda *a: calls.append(1) or own(*a))
    weight, x = torch.randn(3072, 8), torch.randn(4, 8)
    with torch.no_grad():
        linear(x, weight)
    assert len(calls) == 1
    linear(x, weight)
    with torch.no_grad():
        linear(x[:1], weight)
        linear(torch.randn(40, 8), weight)
    assert len(calls) == 1
