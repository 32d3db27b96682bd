"""ResNet: names of torchvision's weights, maps that do not depend on padding, norms. Contracts: tests/contracts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import midetr
from mmcomponents.batch import ImageBatch, PackedBatch
from mmcomponents.testing import pack
from mmcomponents.vision import ResNet

SMALL = partial(ResNet, (1, 2, 1, 1), 8, image_size=64)


def encoder(**changes: object) -> ResNet:
    made = SMALL(**changes)
    made.init_weights(0)
    return made


def test_resnet50_has_torchvisions_names_and_size() -> None:
    with torch.device("meta"):
        made = ResNet()
    state = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    assert made.hidden_size == (512, 1024, 2048)
    # 25,557,032 parameters of torchvision's resnet50 without its classifier, of 2,049,000; two statistics a norm.
    norms = sum(shape[0] for name, shape in state.items() if name.endswith("running_mean"))
    assert sum(torch.Size(shape).numel() for shape in state.values()) == 25_557_032 - 2_049_000 + 2 * norms
    assert norms == 26_560
    assert state["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert state["layer4.2.conv3.weight"] == (2048, 512, 1, 1)
    assert {name.rpartition(".")[2] for name in state if ".bn2." in name} == {
        "weight", "bias", "running_mean", "running_var"
    }  # fmt: skip
    assert "layer1.0.downsample.1.running_var" in state


def test_buffers_are_filled_after_the_meta_device() -> None:
    with torch.device("meta"):
        made = SMALL()
    values = made.buffer_values("cpu")
    assert {float(v.unique()) for n, v in values.items() if n.endswith(("running_var", "weight"))} == {1.0}
    assert {float(v.unique()) for n, v in values.items() if n.endswith(("running_mean", "bias"))} == {0.0}


def test_a_frozen_norm_is_torchs_batch_norm_in_evaluation() -> None:
    made = encoder()
    with torch.no_grad():
        for buffer in made.buffers():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    norm, x = made.bn1, torch.randn(2, 8, 5, 4)
    expected = torch.nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    assert torch.allclose(norm(x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_maps_of_an_image_are_those_without_padding(norm: str) -> None:
    made = encoder(norm=norm)
    midetr.stir(made)
    with torch.no_grad():
        for buffer in made.buffers():  # a shift fills the padding, unless it is set to zero
            buffer.add_(0.3)
        batch = midetr.images((40, 64), (64, 33), (50, 50))
        together = made(batch)
        for number, (height, width) in enumerate(batch.valid_hw.tolist()):
            single = made(midetr.alone(batch, number))
            for m, own in zip(together.maps, single.maps, strict=True):
                stride = 64 // m.hw[0]
                rows, columns = -(-height // stride), -(-width // stride)
                assert m.valid_hw[number].tolist() == [rows, columns]
                grid = m.tokens[number].unflatten(0, m.hw)
                expected = own.tokens[0].unflatten(0, own.hw)[:rows, :columns]
                assert torch.allclose(grid[:rows, :columns], expected, rtol=1e-4, atol=1e-4)
                assert not grid[rows:].any()
                assert not grid[:, columns:].any()


def test_tiles_of_any_size_are_padded() -> None:
    made = encoder()
    maps = made(ImageBatch(torch.randn(1, 3, 40, 70), torch.zeros(1, dtype=torch.long))).maps
    assert [m.hw for m in maps] == made.grids((40, 70)) == [(8, 12), (4, 6), (2, 3)]
    assert maps[0].valid_hw.tolist() == [[5, 9]]


def test_flops_are_those_of_the_products() -> None:
    made = encoder()
    batch: PackedBatch = pack([("i", 2)], tile=64, tokens_per_tile=0)
    with FlopCounterMode(display=False) as counter:
        made(batch.images)
    assert made.flops(batch) == counter.get_total_flops()


def test_stages_are_checked() -> None:
    with pytest.raises(ValueError, match=r"stages \(3, 2\) must be ascending numbers from 1 to 4"):
        SMALL(stages=(3, 2))
    with pytest.raises(ValueError, match="norm must be one of 'frozen_batch_norm', 'group_norm', got 'batch_norm'"):
        SMALL(norm="batch_norm")
