"""Small U-Net over latents."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmcomponents.heads.denoisers import UNetDenoiser


def net(**changes: object) -> UNetDenoiser:
    sizes = {"widths": (8, 16), "num_blocks": 2, "context_width": 6, "pooled_width": 5, "num_heads": 2}
    made = UNetDenoiser(3, 8, **(sizes | changes))  # type: ignore[arg-type]
    made.init_weights(0)
    return made.double()


def given(count: int = 2) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(count, 9, 8, 8, generator=draw, dtype=torch.float64)
    context = torch.randn(count, 4, 6, generator=draw, dtype=torch.float64)
    return latents, torch.arange(count) * 5, context, torch.randn(count, 5, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("widths", [(8,), (8, 16), (8, 8, 16)])
def test_it_reads_latents_level_context_and_pooled_vector_of_each_picture_alone(widths: tuple[int, ...]) -> None:
    made, inputs = net(widths=widths), given()
    found = made(*inputs)
    assert found.shape == (2, 3, 8, 8)
    torch.testing.assert_close(made(*(value[:1] for value in inputs)), found[:1])
    for place in range(4):
        other = list(inputs)
        other[place] = other[place] + (7 if place == 1 else 1)
        assert (made(*other) - found).abs().max() > 1e-6


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"multiples of 8 and of num_heads 3, got \(8,\)"):
        net(widths=(8,), num_heads=3)
    with pytest.raises(ValueError, match="latents of side 8 cannot be halved 4 times"):
        net(widths=(8,) * 5)


def test_flops_are_those_that_torch_counts() -> None:
    made = net(widths=(16, 16, 32))
    with FlopCounterMode(display=False) as counter:
        made(*given(1))
    assert 0.95 * counter.get_total_flops() < made.flops_of(8, 8) <= counter.get_total_flops()
