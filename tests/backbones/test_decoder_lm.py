"""DecoderLM compared with transformers' own models, with random weights."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import Exact, TokenType
from mmcomponents.generation.past import Past
from mmcomponents.nn.decoder_layer import DecoderLayer
from mmcomponents.nn.mlp import SwiGLU
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions import RoPE

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
}
STYLES = {
    "Qwen2.5": (transformers.Qwen2Config(**SHAPE), {"qkv_bias": True}),
    "Qwen3": (transformers.Qwen3Config(**SHAPE, head_dim=12), {"qkv_bias": False, "qk_norm": True, "head_dim": 12}),
    "Llama": (transformers.LlamaConfig(**SHAPE), {"qkv_bias": False}),
}


@pytest.mark.parametrize("style", STYLES)
def test_equals_transformers(style) -> None:
    config, arguments = STYLES[style]
    theirs = transformers.AutoModel.from_config(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    ours = DecoderLM(32, 2, 4, 48, num_kv_heads=2, **arguments)
    state = {n: p for n, p in theirs.state_dict().items() if not n.startswith("embed_tokens")}
    ours.load_state_dict(state)
    batch = tiny.pack([("t", 17)], [("t", 9)])
    base = config.rope_parameters["rope_theta"]
    x = torch.randn(26, 32, requires_grad=True)
    found = ours(x, batch.layout, RoPE(ours.head_dim, base).rotary(batch.layout))
    wanted = torch.cat([theirs(inputs_embeds=part[None]).last_hidden_state[0] for part in x.split([17, 9])])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(found)
    a, b = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (found, wanted))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_alone_on_tensors_and_in_a_users_loop() -> None:
    """Uses a component without the composed model."""
    part = tiny.backbone()
    layout = tiny.pack([("t", 6)]).layout
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
    x, before = torch.randn(6, 32), None
    for _ in range(3):
        loss = part(x, layout, RoPE(8).rotary(layout)).square().mean()
        assert before is None or loss < before
        before = loss.detach()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        tiny.backbone(num_kv_heads=3)
    with pytest.raises(ValueError, match="hidden_size 30 is not a multiple of num_heads 4: give head_dim"):
        tiny.backbone(hidden_size=30)


def test_rotary_may_be_left_out() -> None:
    part, layout = tiny.backbone(), tiny.pack([("t", 6)]).layout
    x = torch.randn(6, 32)
    ones = Exact(torch.ones(6, 8), torch.zeros(6, 8))
    torch.testing.assert_close(part(x, layout), part(x, layout, ones))


class RoutedLayer(DecoderLayer):
    """Layer of another package: positions of pictures that are made go through a feed-forward block of their own."""

    def __init__(self, like: DecoderLayer) -> None:
        super().__init__(like.self_attn, tiny.WIDTH, 48, 1e-6)
        self.expert = SwiGLU(tiny.WIDTH, 48)

    def forward(self, x, layout, segments, rotate, cache, layer):
        x = x + self.self_attn(self.input_layernorm(x), segments, rotate, cache, layer)
        normed = self.post_attention_layernorm(x)
        made = (layout.token_type == TokenType.IMAGE_GEN)[:, None]
        return x + torch.where(made, self.expert(normed), self.mlp(normed))


class RoutedLM(DecoderLM):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.layers = nn.ModuleList(RoutedLayer(layer) for layer in self.layers)
        self.init_weights()


def test_a_layer_can_route_by_the_type_of_the_token() -> None:
    model = tiny.model(backbone=RoutedLM(tiny.WIDTH, 2, 4, 48, num_kv_heads=2))
    batch = tiny.pack([("t", 6)])
    kinds = batch.layout.token_type.clone()
    kinds[3:] = TokenType.IMAGE_GEN
    routed = replace(batch, layout=replace(batch.layout, token_type=kinds))
    with torch.no_grad():
        one, other = model(batch).hidden, model(routed).hidden
        assert torch.equal(one[:3], other[:3])
        assert not torch.isclose(one[3:], other[3:]).any(1).all()
        # Also while decoding, where the type is that of the new token.
        past = Past()
        prompt = tiny.pack([("t", 3)])
        prompt.input_ids[:] = batch.input_ids[:3]
        model(prompt, Runtime(cache=past.cache))
        past.advance(model, prompt)
        made = past.one_more(prompt, batch.input_ids[3:4].tolist(), [0], TokenType.IMAGE_GEN)
        torch.testing.assert_close(model(made, Runtime(cache=past.cache)).hidden[0], other[3], rtol=1e-5, atol=1e-5)
