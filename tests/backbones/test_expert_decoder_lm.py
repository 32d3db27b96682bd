"""Feed-forward blocks by token type. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.backbones import DecoderLM, ExpertDecoderLM
from mmcomponents.backbones.expert_decoder_lm import ExpertLayer
from mmcomponents.batch import Layout, TokenType
from mmcomponents.nn.attention import Segments
from mmcomponents.nn.rotary import Rotation
from mmcomponents.positions import RoPE
from mmcomponents.testing import pack

SIZES = tiny.backbone_factory().keywords


def experts(seed: int = 0) -> ExpertDecoderLM:
    made = ExpertDecoderLM(**SIZES)
    made.init_weights(seed, "backbone")
    for layer in made.layers:
        layer.image_mlp.down_proj.weight.data.mul_(-1.5)
    return made


def mixed() -> Layout:
    layout = pack([("t", 4), ("i", 1), ("t", 3)], [("t", 2), ("i", 2)]).layout
    kind = layout.token_type.clone()
    kind[-4:] = int(TokenType.IMAGE_GEN)
    return replace(layout, token_type=kind)


def test_it_begins_as_a_decoder_of_the_same_weights() -> None:
    plain, made = DecoderLM(**SIZES), ExpertDecoderLM(**SIZES)
    for part in (plain, made):
        part.init_weights(3, "backbone")
    layout, x = mixed(), torch.randn(21, tiny.WIDTH)
    assert layout.num_tokens == 21
    # The blocks multiply other numbers of rows at a time, which may round in another way.
    torch.testing.assert_close(made(x, layout), plain(x, layout), rtol=1e-6, atol=1e-6)


def dense(layer: ExpertLayer, x: Tensor, layout: Layout, rotate: Rotation) -> Tensor:
    """Computes both blocks at all positions and keeps one."""
    x = x + layer.self_attn(layer.input_layernorm(x), Segments(layout.cu_seqlens, layout.max_seqlen), rotate, None, "")
    h = layer.post_attention_layernorm(x)
    image = torch.isin(layout.token_type, torch.tensor([TokenType.IMAGE, TokenType.IMAGE_GEN]))
    return x + torch.where(image[:, None], layer.image_mlp(h), layer.mlp(h))


def test_each_position_goes_through_the_block_of_its_type() -> None:
    made, layout, x = experts().double(), mixed(), torch.randn(21, tiny.WIDTH, dtype=torch.float64)
    rotary = RoPE(made.head_dim).rotary(layout)
    expected = x
    for layer in made.layers:
        expected = dense(layer, expected, layout, Rotation(rotary))
    torch.testing.assert_close(made(x, layout, rotary), made.norm(expected))


def test_a_text_does_not_depend_on_the_block_of_images() -> None:
    made, layout, x = experts(), pack([("t", 9)]).layout, torch.randn(9, tiny.WIDTH)
    before = made(x, layout)
    for layer in made.layers:
        torch.nn.init.normal_(layer.image_mlp.down_proj.weight)
    assert torch.equal(made(x, layout), before)


@pytest.mark.parametrize("kind", [TokenType.TEXT, TokenType.IMAGE_GEN])
def test_a_single_token_goes_through_the_block_of_its_type(kind: TokenType) -> None:
    made, used = experts(), []
    for layer in made.layers:
        layer.mlp.register_forward_hook(lambda _, x, y: used.append(("text", len(x[0]))))
        layer.image_mlp.register_forward_hook(lambda _, x, y: used.append(("image", len(x[0]))))
    layout = replace(pack([("t", 1)]).layout, token_type=torch.tensor([int(kind)]))
    with torch.no_grad():
        made(torch.randn(1, tiny.WIDTH), layout)
    rows = {name: sum(count for block, count in used if block == name) for name in ("text", "image")}
    assert rows == ({"text": 2, "image": 0} if kind == TokenType.TEXT else {"text": 0, "image": 2})


def test_one_block_is_counted_for_a_position() -> None:
    batch = pack([("t", 4), ("i", 1), ("t", 3)])
    assert ExpertDecoderLM(**SIZES).flops(batch) == DecoderLM(**SIZES).flops(batch)
