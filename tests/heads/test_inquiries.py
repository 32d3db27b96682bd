"""A decoder layer, parallel inquiries and the shared self-attention of Lite-MI."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import midetr
from mmcomponents.heads.inquiries import Inquiries, LiteInquiries, Memory, QueryLayer

WIDTH, HEADS, POINTS = 16, 2, 2
SIZES = (WIDTH, 4, HEADS, POINTS, 20)


def stirred(made: nn.Module) -> Any:
    with torch.no_grad():
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


def given(queries: int = 5) -> tuple[Tensor, Tensor, Tensor, Memory]:
    draw = torch.Generator().manual_seed(1)
    levels = midetr.levels(groups=1).maps
    memory = Memory([m.tokens for m in levels], [m.hw for m in levels], torch.ones(1, 4, 2), None)
    x, positions = (torch.randn(2, queries, WIDTH, generator=draw) for _ in range(2))
    boxes = 0.1 + 0.8 * torch.rand(2, queries, 4, generator=draw)
    return x, positions, boxes, memory


def test_self_attention_is_torchs_with_positions_in_queries_and_keys() -> None:
    layer = stirred(QueryLayer(*SIZES)).self_attention
    torchs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat((layer.query_key.weight, layer.value.weight)))
        torchs.in_proj_bias.copy_(torch.cat((layer.query_key.bias, layer.value.bias)))
        torchs.out_proj.weight.copy_(layer.out.weight)
        torchs.out_proj.bias.copy_(layer.out.bias)
    x, positions, _, _ = given()
    sees = torch.rand(2, 5, 5) < 0.6
    sees |= torch.eye(5, dtype=torch.bool)
    q = x + positions
    expected = torchs(q, q, x, attn_mask=~sees.repeat_interleave(HEADS, 0), need_weights=False)[0]
    assert torch.allclose(layer(x, positions, sees), expected, atol=1e-5)


def test_a_layer_looks_within_its_boxes() -> None:
    """Offsets are in halves of the box over the number of points: at most P points from the centre to the edge."""
    layer = stirred(QueryLayer(*SIZES))
    x, positions, boxes, memory = given()
    small = torch.cat((boxes[..., :2], torch.zeros_like(boxes[..., 2:])), dim=-1)  # no size: only the centre is seen
    with torch.no_grad():
        one = layer.read(x, positions, small, memory)
        layer.cross_attention.offsets.weight.normal_()
        assert torch.allclose(layer.read(x, positions, small, memory), one, atol=1e-6)
        before = layer.read(x, positions, boxes, memory)
        layer.cross_attention.offsets.weight.normal_()
        assert (layer.read(x, positions, boxes, memory) - before).abs().max() > 1e-3


def test_inquiries_are_independent_layers_side_by_side() -> None:
    made, (x, positions, boxes, memory) = stirred(Inquiries(3, *SIZES)), given()
    found = made(x, positions, boxes, memory, None)
    assert found.shape == (2, 5, 3 * WIDTH)
    for number, layer in enumerate(made.layers):
        own = found[..., number * WIDTH : (number + 1) * WIDTH]
        assert torch.allclose(own, layer(x, positions, boxes, memory, None), atol=1e-6)
    weights = [{id(p) for p in layer.parameters()} for layer in made.layers]
    assert not weights[0] & weights[1]
    found[..., :WIDTH].square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in made.layers[0].parameters())
    assert all(p.grad is None or not p.grad.any() for p in made.layers[1].parameters())


def test_lite_inquiries_share_their_self_attention() -> None:
    made, (x, positions, boxes, memory) = stirred(LiteInquiries(3, *SIZES)), given()
    full = stirred(Inquiries(3, *SIZES))
    calls = []
    made.self_attention.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for lite, layer in zip(made.layers, full.layers, strict=True):
            layer.load_state_dict(
                {**lite.state_dict()}
                | {f"self_attention.{name}": v for name, v in made.self_attention.state_dict().items()}
                | {f"norm1.{name}": v for name, v in made.norm1.state_dict().items()}
            )
        assert torch.allclose(
            made(x, positions, boxes, memory, None), full(x, positions, boxes, memory, None), atol=1e-5
        )
    assert calls == [1]
    shared = sum(p.numel() for p in [*made.self_attention.parameters(), *made.norm1.parameters()])
    assert sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in made.parameters()) == 2 * shared
