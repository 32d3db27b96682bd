from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import gelu, silu
from torch.utils.checkpoint import checkpoint

from mmcomponents.nn.mlp import MLP, SwiGLU
from mmcomponents.nn.norm import RMSNorm
from mmcomponents.nn.recompute import recomputed, recomputed_input


class PlainSwiGLU(SwiGLU):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class PlainMLP(MLP):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(x)))
        return out


Run = Callable[[nn.Module, Tensor], Tensor]
CASES: dict[str, Run] = {
    "plain": lambda module, x: module(x),
    "checkpointed": lambda module, x: checkpoint(module, x, use_reentrant=False),
}


def step(module: nn.Module, run: Run, x: Tensor, autocast: bool = False) -> dict[str, Tensor]:
    """Returns the output and all gradients."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = run(module, x)
    out.float().square().sum().backward()
    assert x.grad is not None
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **grads}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("kind", [SwiGLU, MLP])
def test_values_and_gradients_are_those_of_autograd(kind: type[nn.Module], precision: str, run: Run) -> None:
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    module = kind(16, 24).to(dtype)
    plain = (PlainSwiGLU if kind is SwiGLU else PlainMLP)(16, 24).to(dtype)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(3, 5, 16, dtype=dtype)
    autocast = precision == "autocast"
    assert_equal(step(module, run, x, autocast), step(plain, CASES["plain"], x, autocast))


@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_with_an_adapter(dropout: float, run: Run) -> None:
    found = []
    for kind in (SwiGLU, PlainSwiGLU):
        torch.manual_seed(0)
        module = kind(16, 24)
        lora = LoraConfig(r=2, target_modules=["down_proj"], lora_dropout=dropout, init_lora_weights=False)
        inject_adapter_in_model(lora, module)
        torch.manual_seed(1)
        found.append(step(module, run, torch.randn(5, 16)))
    assert_equal(*found)


def test_frozen_weights_and_a_second_backward_pass() -> None:
    found = []
    for kind in (SwiGLU, PlainSwiGLU):
        torch.manual_seed(0)
        module = kind(16, 24)
        module.down_proj.requires_grad_(False)
        x = torch.randn(5, 16, requires_grad=True)
        out = module(x).square().sum()
        out.backward(retain_graph=True)
        out.backward()
        assert x.grad is not None
        assert module.down_proj.weight.grad is None
        found.append({"x": x.grad, "gate": module.gate_proj.weight.grad})
    assert_equal(*found)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_that_of_torch(dtype: torch.dtype, autocast: bool) -> None:
    torch.manual_seed(0)
    own, torchs = RMSNorm(16, eps=1e-6).to(dtype), nn.RMSNorm(16, eps=1e-6).to(dtype)
    own.weight.data.normal_()
    torchs.load_state_dict(own.state_dict())
    x = torch.randn(5, 3, 16, dtype=dtype)
    assert_equal(step(own, CASES["plain"], x, autocast), step(torchs, CASES["plain"], x, autocast))


def test_the_backward_pass_has_the_autocast_of_the_forward_pass() -> None:
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = recomputed(nn.functional.linear, x, weight), nn.functional.linear(x, weight)
    assert out.dtype == torch.bfloat16
    grad = torch.ones_like(out)
    for ours, torchs in zip(*(torch.autograd.grad(y, (x, weight), grad) for y in (out, expected)), strict=True):
        assert torch.equal(ours, torchs)


class InPlace(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.relu_())


def test_a_module_that_changes_its_input_is_refused() -> None:
    gate, up = (torch.randn(4, 8, requires_grad=True) for _ in range(2))
    with pytest.raises(RuntimeError, match="InPlace changes its input in place, which is computed again later"):
        recomputed_input(InPlace(8, 3), lambda a, b: silu(a) * b, gate, up)


def kept(module: nn.Module, x: Tensor) -> int:
    """Returns the number of elements that are kept for the backward pass, weights left out."""
    weights = {p.untyped_storage()._cdata for p in module.parameters()}
    found: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        key = value.untyped_storage()._cdata
        if key not in weights:
            found[key] = value
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        module(x)
    return sum(value.untyped_storage().nbytes() // value.element_size() for value in found.values())


@pytest.mark.parametrize(
    ("module", "per_row"),
    [(SwiGLU(16, 24), 16 + 2 * 24), (MLP(16, 24), 16 + 24), (RMSNorm(16), 16)],
    ids=lambda value: type(value).__name__,
)
def test_only_inputs_are_kept(module: nn.Module, per_row: int) -> None:
    x = torch.randn(5, 16, dtype=torch.bfloat16, requires_grad=True)
    assert kept(module.to(torch.bfloat16), x) == 5 * per_row
