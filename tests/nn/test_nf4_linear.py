"""Linear maps with weights of 4 bits, compared with the table of values in the QLoRA paper (appendix E)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmcomponents.nn.nf4_linear import NF4Linear, linear_weights, quantized_weights

NF4 = torch.tensor(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
)  # fmt: skip


def nearest(weight: Tensor) -> Tensor:
    """Returns each value of a weight as the nearest of the table, times the largest value of its block of 64."""
    blocks = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    places = (blocks[..., None] / largest[..., None] - NF4).abs().argmin(-1)
    return (NF4[places] * largest).flatten()[: weight.numel()].view_as(weight)


@pytest.mark.parametrize(("width", "out", "bias"), [(48, 80, True), (128, 64, True), (5, 3, False), (6, 7, False)])
def test_weights_are_the_nearest_values(width: int, out: int, bias: bool) -> None:
    source = nn.Linear(width, out, bias=bias)
    quantised = NF4Linear(source)
    torch.testing.assert_close(quantised.weight, nearest(source.weight.detach()), rtol=1e-6, atol=1e-7)
    assert not list(quantised.parameters()) or quantised.bias is source.bias
    stored = sum(buffer.nbytes for buffer in quantised.buffers())
    assert stored == (32 + 4) * -(-width * out // 64)
    assert quantized_weights(quantised) == linear_weights(quantised) == linear_weights(source) == width * out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients_are_those_of_the_restored_map(dtype: torch.dtype) -> None:
    quantised = NF4Linear(nn.Linear(48, 80)).to(dtype)
    plain = quantised.restored(dtype)
    assert plain.weight.dtype == dtype
    found, expected = torch.randn(2, 3, 7, 48, dtype=dtype).unbind(0)
    expected.copy_(found)
    for x in (found, expected):
        x.requires_grad_()
    one, two = quantised(found), plain(expected)
    one.square().sum().backward()
    bias, quantised.bias.grad = quantised.bias.grad, None  # type: ignore[union-attr]
    two.square().sum().backward()
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=0)
    torch.testing.assert_close(bias, plain.bias.grad)


def test_a_conversion_of_the_model_changes_no_weight() -> None:
    quantised = NF4Linear(nn.Linear(48, 80))
    before = quantised.weight
    assert torch.equal(quantised.to(torch.bfloat16).weight, before)
    other = NF4Linear(nn.Linear(48, 80))
    other.load_state_dict(quantised.to(torch.float32).state_dict())
    assert torch.equal(other.weight, before)


def test_autocast_applies() -> None:
    quantised = NF4Linear(nn.Linear(48, 80))
    x = torch.randn(7, 48, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = quantised(x), quantised.restored(torch.float32)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_nothing_is_kept_for_the_backward_pass_but_the_codes() -> None:
    quantised = NF4Linear(nn.Linear(48, 80))
    kept: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        quantised(torch.randn(7, 48, requires_grad=True))
    assert {t.dtype for t in kept} == {torch.uint8}


def test_the_meta_device_has_the_same_shapes() -> None:
    quantised = NF4Linear(nn.Linear(48, 80, device="meta"))
    real = NF4Linear(nn.Linear(48, 80))
    assert {n: (b.shape, b.dtype) for n, b in quantised.named_buffers()} == {
        n: (b.shape, b.dtype) for n, b in real.named_buffers()
    }
    assert quantised(torch.empty(7, 48, device="meta", requires_grad=True)).shape == (7, 80)
