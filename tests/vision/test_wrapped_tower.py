"""What towers of other libraries have in common, with small models in place of these libraries."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.vision.wrapped_tower import as_maps, repeated_types
from tower_standins import Block, ConvNet, StandInOpenClip, StandInTimm, Transformer

TOWERS = {
    "transformer": partial(StandInTimm, "vit"),
    "inner maps": partial(StandInTimm, "vit", (0, -2)),
    "batch norms": partial(StandInTimm, "convnet", (1, 2)),
    "channels last": partial(StandInTimm, "convnet", model_args={"output_fmt": "NHWC"}),
    "open_clip": partial(StandInOpenClip, "tiny-clip"),
}
towers = pytest.mark.parametrize("tower", TOWERS)


def images(count: int = 2, hw: tuple[int, int] = (tiny.TILE, tiny.TILE)) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, *hw), torch.zeros(count, dtype=torch.long))


@towers
def test_sizes_are_measured_and_every_weight_has_a_gradient(tower: str) -> None:
    part = TOWERS[tower]()
    maps = part(images()).maps
    widths = part.hidden_size if isinstance(part.hidden_size, tuple) else (part.hidden_size,)
    assert tuple(each.tokens.shape[2] for each in maps) == widths
    assert maps[-1].hw == part.grid((tiny.TILE, tiny.TILE))
    assert all(each.tokens.shape[1] == each.hw[0] * each.hw[1] for each in maps)
    torch.stack([each.tokens.square().sum() for each in maps]).sum().backward()
    assert [name for name, parameter in part.named_parameters() if parameter.grad is None] == []


def test_what_the_maps_do_not_need_is_not_there() -> None:
    whole, inner = (set(TOWERS[name]().state_dict()) for name in ("transformer", "inner maps"))
    assert {name.split(".")[1] for name in whole - inner} == {"blocks", "norm"}
    assert not any(name.startswith("body.blocks.2") for name in inner)
    assert "body.proj" not in TOWERS["open_clip"]().state_dict()


@towers
def test_the_same_values_on_the_meta_device(tower: str) -> None:
    plain = TOWERS[tower]()
    plain.init_weights(7)
    with torch.device("meta"):
        late = TOWERS[tower]()
    values = late.buffer_values("cpu")
    late.to_empty(device="cpu")
    late.set_buffers(values)
    late.init_weights(7)
    for one, other in ((plain.named_parameters(), late.parameters()), (plain.named_buffers(), late.buffers())):
        for (name, value), again in zip(one, other, strict=True):
            assert torch.equal(value, again), name
    batch = images()
    assert torch.equal(plain.eval()(batch).primary.tokens, late.eval()(batch).primary.tokens)


def test_layer_scales_start_as_the_library_says_and_buffers_keep_their_values() -> None:
    part = TOWERS["transformer"]()
    part.init_weights(3)
    assert part.body.blocks[1].scale.gamma.tolist() == [0.5] * tiny.VISION
    part.body.blocks[0].weights.zero_()  # as `to_empty` may leave it
    part.to(torch.bfloat16)
    assert part.body.blocks[0].weights.dtype == torch.bfloat16
    torch.testing.assert_close(
        part.body.blocks[0].weights.float(), torch.linspace(0.5, 1.5, tiny.VISION), atol=5e-3, rtol=0
    )
    assert 0.1 < TOWERS["open_clip"]().body.class_embedding.std() < 0.4  # 24 ** -0.5


def test_batch_norms_keep_their_statistics() -> None:
    part = TOWERS["batch norms"]().train()
    before = copy.deepcopy(dict(part.named_buffers()))
    batch = images(4)
    together = part(batch).primary.tokens
    alone = torch.cat(
        [part(ImageBatch(each[None], torch.zeros(1, dtype=torch.long))).primary.tokens for each in batch.pixels]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in part.named_buffers())
    assert part.body.stages[0].conv.training
    assert not part.body.stages[0].bn.training


def test_blocks_are_the_modules_that_repeat() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(nn.Sequential(Block(4), Block(4)) for _ in range(2))

    assert repeated_types(Transformer(0, tiny.TILE)) == (Block,)
    assert repeated_types(Stack()) == (Block,)
    assert [kind.__name__ for kind in repeated_types(ConvNet(0))] == ["Stage"]
    assert repeated_types(nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4))) == ()


def test_operations_are_counted() -> None:
    part, batch = TOWERS["transformer"](), tiny.pack([("t", 3), ("i", 2)])
    places, width = 16, tiny.VISION
    matrices = 2 * (places + 1) * 4 * width**2 + 4 * (places + 1) ** 2 * width
    assert part.flops(batch) == 2 * (2 * places * 3 * tiny.PATCH**2 * width + 3 * matrices)
    assert part.flops(tiny.pack([("t", 3)])) == 0


def test_tiles_that_the_tower_does_not_take_are_one_line() -> None:
    said = f"vit takes tiles of {tiny.TILE} x {tiny.TILE} pixels, not 32 x 16: its positions are of one size"
    with pytest.raises(ValueError, match=said):
        TOWERS["transformer"]()(images(hw=(32, 16)))
    free = StandInTimm("vit", model_args={"dynamic_img_size": True})
    assert free(images(hw=(32, 16))).primary.hw == free.grid((32, 16)) == (8, 4)
    with pytest.raises(ValueError, match="a tile of 20 x 16 pixels is not a multiple of the patch size 8"):
        TOWERS["batch norms"]().grid((20, 16))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            partial(StandInTimm, "vit", (1, 0)),
            r"out_indices \(1, 0\) must be ascending numbers of the maps of vit, -3 to 2",
        ),
        (partial(StandInTimm, "vit", (0, -3)), "must be ascending"),
        (partial(StandInTimm, "vit", (3,)), "-3 to 2"),
        (partial(StandInTimm, "vit", ()), "must be ascending"),
        (partial(StandInTimm, "pyramid"), "pyramid gives list, which is no map: name maps by out_indices"),
        (
            partial(StandInTimm, "pyramid", (0,)),
            "pyramid cannot encode a tile of 16 x 16 pixels: 'Pyramid' object has no",
        ),
        (partial(StandInTimm, "convnet", image_size=20), "places do not divide it evenly"),
    ],
)
def test_what_is_no_tower_is_one_line(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_output_becomes_a_map() -> None:
    tokens = torch.randn(2, 1 + 8, 5)
    found = as_maps("a", tokens, (32, 64), 1, False)
    assert found.shape == (2, 5, 2, 4)
    assert torch.equal(found[:, :, 1, 0], tokens[:, 5])
    last = torch.randn(2, 3, 4, 5)
    assert torch.equal(as_maps("a", last, (3, 4), 0, True)[0, :, 2, 3], last[0, 2, 3])
    for wrong in (torch.randn(2, 8, 5), torch.randn(2, 1, 5), torch.randn(2, 5)):
        with pytest.raises(ValueError, match=r"a gives \[2, .*\], which is no map"):
            as_maps("a", wrong, (32, 64), 1, False)
