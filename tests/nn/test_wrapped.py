"""Initial values of the tensors of a wrapped model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmcomponents.nn.wrapped import PassThrough, Starts, matrix_flops


class Norm(nn.Module):
    """Module with vectors and a buffer."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        self.drawn = nn.Parameter(torch.empty(4))
        self.bias = nn.Parameter(torch.empty(4))
        self.register_buffer("steps", torch.arange(3.0), persistent=persistent)


def initialise(module: nn.Module) -> None:
    if isinstance(module, Norm):
        module.weight.zero_()
        module.drawn.uniform_(3, 4)
        module.steps.copy_(torch.arange(3.0))


def drawn(starts: Starts, name: str, seed: int, shape: tuple[int, ...] = (4,)) -> Tensor:
    value = torch.full(shape, 7.0)
    starts.draw(name, value, torch.Generator().manual_seed(seed))
    return value


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_vectors_begin_as_the_library_says(device) -> None:
    with torch.device(device):
        body = nn.Sequential(Norm(), nn.LayerNorm(4))
    starts = Starts(body, initialise)
    assert drawn(starts, "0.weight", 0).tolist() == [0, 0, 0, 0]
    assert torch.equal(drawn(starts, "0.drawn", 1), drawn(starts, "0.drawn", 1))
    assert not torch.equal(drawn(starts, "0.drawn", 1), drawn(starts, "0.drawn", 2))
    assert 3 <= drawn(starts, "0.drawn", 1).min() <= 4
    for name in ("0.bias", "1.weight", "1.bias"):  # the default initialisation of components
        assert not starts.draw(name, torch.empty(4), torch.Generator())


def test_matrices_of_other_shapes_are_drawn_by_their_own_width() -> None:
    starts = Starts(nn.Sequential(), initialise)
    assert abs(drawn(starts, "experts", 0, (8, 50, 100)).std() - 0.1) < 1e-3


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_buffers_come_back(device) -> None:
    with torch.device(device):
        body = nn.Sequential(Norm())
    starts = Starts(body, initialise)
    body.to_empty(device="cpu").to(torch.bfloat16)
    body[0].steps.fill_(9)
    starts.restore(body)
    assert body[0].steps.tolist() == [0, 1, 2]
    assert body[0].steps.dtype == torch.float32
    assert "0.steps" not in body.state_dict()


def test_a_buffer_that_nobody_can_make_anew_is_refused() -> None:
    with torch.device("meta"):
        body = nn.Sequential(Norm())
        kept = nn.Sequential(Norm(persistent=True))
    with pytest.raises(ValueError, match=r"the buffer 0.steps cannot be recomputed: build this model on a real device"):
        Starts(body, lambda module: None)
    with pytest.raises(ValueError, match=r"the buffer 0.steps"):
        Starts(kept, initialise)


def test_flops_count_matrices_and_no_tables() -> None:
    body = nn.Sequential(nn.Linear(3, 5), nn.Embedding(100, 3), nn.LayerNorm(5), PassThrough())
    assert matrix_flops(body, 2) == 2 * 2 * 15
