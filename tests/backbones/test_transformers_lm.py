"""Wrapped language models compared with transformers' own forward, with random weights."""

from __future__ import annotations

import ast
import copy
import inspect
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tiny
from mmcomponents.backbones import TransformersLM, transformers_lm, transformers_rotary
from mmcomponents.batch import Exact, Layout, PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.heads import LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.nn import padding
from mmcomponents.nn import wrapped as wrapped_module
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions import V2PE, Position, RoPE
from mmcomponents.vision import transformers_vision

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHAPE: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}


def shape(*absent: str) -> dict[str, Any]:
    """Returns `SHAPE` without fields that a model does not have."""
    return {key: value for key, value in SHAPE.items() if key not in absent}


EAGER = {"attn_implementation": "eager"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama": ({"model_type": "llama", **SHAPE}, {}),
    "Qwen2": ({"model_type": "qwen2", **SHAPE}, {}),
    "Qwen3": ({"model_type": "qwen3", **SHAPE, "head_dim": 12}, {}),
    "GPT-2": ({"model_type": "gpt2", **shape("num_key_value_heads", "intermediate_size")}, {}),
    "Gemma2": ({"model_type": "gemma2", **SHAPE, "head_dim": 8, "sliding_window": 5}, EAGER),
    "Gemma3": ({"model_type": "gemma3_text", **SHAPE, "head_dim": 8, "sliding_window": 5}, {}),
    "Mistral with a window of 5": ({"model_type": "mistral", **SHAPE, "sliding_window": 5}, {}),
    "Phi, part of a head": ({"model_type": "phi", **SHAPE}, {}),
    "Cohere, interleaved pairs": ({"model_type": "cohere", **SHAPE}, {}),
    "GPT-NeoX": ({"model_type": "gpt_neox", **shape("num_key_value_heads")}, {}),
    "BLOOM, biases for positions": (
        {"model_type": "bloom", **shape("num_key_value_heads", "intermediate_size", "max_position_embeddings")},
        EAGER,
    ),
    "OLMoE": ({"model_type": "olmoe", **SHAPE, "num_experts": 4, "num_experts_per_tok": 2}, {}),
    "DeepSeek, keys wider than values": (
        {"model_type": "deepseek_v3", **SHAPE, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8}
        | {"qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 6, "first_k_dense_replace": 2},
        {},
    ),
}  # fmt: skip
cases = pytest.mark.parametrize("case", CASES)
PACK = tiny.pack([("t", 17)], [("t", 9)], [("t", 12)])
V2PE_PACK = tiny.pack([("t", 5), ("i", 2), ("t", 4)], [("t", 3), ("i", 1), ("t", 9)])


def wrapped(case: str = "Qwen2", position: Position | None = None) -> MultimodalModel:
    """Returns embedder, wrapped body and head with large random weights."""
    config, arguments = CASES[case]
    model = tiny.model(
        vision=None,
        merger=None,
        projector=None,
        embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH),
        position=position,
        backbone=TransformersLM(config, **arguments),
        heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB)},
    )
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            draw = torch.Generator().manual_seed(len(name))
            p.copy_(torch.randn(p.shape, generator=draw) * 0.3)
    return model


def theirs(model: MultimodalModel, case: str) -> Any:
    """Returns transformers' complete model with the same weights."""
    config, arguments = CASES[case]
    settings = transformers.AutoConfig.for_model(**config)
    settings.tie_word_embeddings = False
    reference = transformers.AutoModelForCausalLM.from_config(settings, **arguments).eval()
    state = {f"{reference.base_model_prefix}.{n}": p for n, p in model.backbone.body.state_dict().items()}
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert len(missing) in (2, 3), f"only the embedding weight and the head (and its bias): {missing}"
    assert not unexpected
    with torch.no_grad():
        reference.get_input_embeddings().weight.copy_(model.embedder.embedding_weight())
        reference.get_output_embeddings().weight.copy_(model.heads["lm"].weight)
        if reference.get_output_embeddings().bias is not None:
            reference.get_output_embeddings().bias.zero_()
    return reference


@cases
def test_equals_transformers(case) -> None:
    model = wrapped(case)
    reference = theirs(model, case)
    state = model(PACK)
    parts = PACK.input_ids.split(PACK.layout.cu_seqlens.diff().tolist())
    body = reference.get_decoder() if case != "GPT-2" else reference.transformer
    hidden = torch.cat([body(input_ids=part[None]).last_hidden_state[0] for part in parts])
    torch.testing.assert_close(state.hidden, hidden, **CLOSE)
    if model.backbone._settings.model_type not in ("gemma2", "cohere"):  # their heads transform the logits
        logits = torch.cat([reference(input_ids=part[None]).logits[0] for part in parts])
        torch.testing.assert_close(tiny.logits(model, PACK), logits, rtol=1e-5, atol=1e-4)
    weights = torch.randn_like(hidden)
    grads = [
        torch.autograd.grad((out * weights).sum(), list(owner.parameters()), allow_unused=True)
        for out, owner in ((state.hidden, model.backbone.body), (hidden, body))
    ]
    ours = dict(zip((n for n, _ in model.backbone.body.named_parameters()), grads[0], strict=True))
    for (name, _), wanted in zip(body.named_parameters(), grads[1], strict=True):
        if name in ours:
            scale = float(wanted.abs().max().clamp(min=1.0))
            torch.testing.assert_close(ours[name], wanted, rtol=1e-4, atol=1e-5 * scale)


@cases
def test_has_no_embedding_weight_and_the_same_weights_on_the_meta_device(case) -> None:
    config, arguments = CASES[case]
    plain = TransformersLM(config, **arguments)
    assert not any(p.shape[0] == tiny.VOCAB for p in plain.state_dict().values() if case != "GPT-2")
    plain.init_weights(7)
    with torch.device("meta"):
        late = TransformersLM(config, **arguments)
    late.to_empty(device="cpu")
    late.init_weights(7)
    assert plain.state_dict().keys() == late.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), late.parameters(), strict=True))
    x = torch.randn(PACK.num_tokens, tiny.WIDTH)
    assert torch.equal(plain.eval()(x, PACK.layout), late.eval()(x, PACK.layout))


def stepwise(model: MultimodalModel, batch: PackedBatch, cuts: list[list[int]]) -> list[Tensor]:
    """Returns the logits of each segment; `cuts` holds the number of positions of each segment per call."""
    starts = batch.layout.cu_seqlens.tolist()[:-1]
    lengths = batch.layout.cu_seqlens.diff()
    done, last, runtime = [0] * len(starts), None, Runtime(cache=KVCache())
    out: list[list[Tensor]] = [[] for _ in starts]
    for sizes in cuts:
        places = torch.cat([torch.arange(a + d, a + d + n) for a, d, n in zip(starts, done, sizes, strict=True)])
        cu = torch.tensor([0, *torch.tensor(sizes).cumsum(0)], dtype=torch.int32)
        layout = Layout(
            batch.layout.token_type[places], cu, max(sizes), batch.layout.image_id[places], batch.layout.grid,
            last_ticks=last, prefill_len=lengths,
        )  # fmt: skip
        part = replace(
            batch, input_ids=batch.input_ids[places], layout=layout, visual_index=torch.full_like(places, -1),
            labels=batch.labels[places], images=None,
        )  # fmt: skip
        for s, piece in enumerate(model(part, runtime, lambda h, state, part=part: h["lm"](state, part)).split(sizes)):
            out[s].append(piece)
            done[s] += sizes[s]
        if model.position is not None:
            last = model.position.ticks(layout)[cu[1:].long() - 1]
    return [torch.cat(pieces) for pieces in out]


@cases
@torch.no_grad()
def test_several_calls_with_a_cache_equal_the_full_forward(case) -> None:
    """Segments of different lengths and different numbers of new positions, beyond any sliding window."""
    model = wrapped(case)
    full = tiny.logits(model, PACK).split([17, 9, 12])
    steps = stepwise(model, PACK, [[9, 3, 5], [3, 2, 1], [1, 1, 1], [1, 1, 1], [3, 2, 4]])
    for a, b in zip(full, steps, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_break_a_cache_that_is_not_aligned(monkeypatch) -> None:
    model = wrapped("Mistral with a window of 5")
    full = tiny.logits(model, PACK).split([17, 9, 12])
    monkeypatch.setattr("mmcomponents.nn.padding.Padded.align", lambda self, block: block[:, :, : self.key_columns])
    steps = stepwise(model, PACK, [[9, 3, 5], [8, 6, 7]])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(steps[1], full[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", ["Llama", "GPT-2", "Gemma2", "Mistral with a window of 5", "OLMoE"])
@torch.no_grad()
def test_greedy_answers_equal_those_of_transformers(case) -> None:
    """Answers end at different steps, so that segments of the cache are selected in between."""
    model = wrapped(case)
    reference = theirs(model, case)
    parts = PACK.input_ids.split([17, 9, 12])
    stops = set(range(0, tiny.VOCAB, 9))
    found = tiny.token_ids(Autoregressive(max_new_tokens=12), model, PACK, stops)
    for part, answer in zip(parts, found, strict=True):
        made = reference.generate(
            part[None], attention_mask=torch.ones_like(part)[None], max_new_tokens=12, do_sample=False,
            eos_token_id=sorted(stops), pad_token_id=0,
        )[0, len(part) :].tolist()  # fmt: skip
        assert answer == [t for t in made if t not in stops]


# Positions.


@pytest.mark.parametrize("case", ["Llama", "Qwen3", "Gemma2", "Phi, part of a head", "Cohere, interleaved pairs"])
def test_the_given_tables_are_used(case) -> None:
    """The reference is transformers' own rotary module with fractional positions and a mask."""
    own = wrapped(case)
    width, theta = own.backbone.head_dim, own.backbone._settings.rope_parameters["rope_theta"]
    model = wrapped(case, V2PE(width, theta, delta=0.25))
    assert torch.allclose(model(PACK).hidden, own(PACK).hidden, **CLOSE), "ordinary positions are the model's own"
    layout, body = V2PE_PACK.layout, theirs(model, case).base_model
    x = model.embedder(PACK, None, Runtime())[: V2PE_PACK.num_tokens].detach()
    typed = replace(layout, token_type=torch.ones_like(layout.token_type))
    found = model.backbone(x, typed, model.position.rotary(layout))
    x = x * (model.backbone._text_scale or 1.0)
    ticks = model.position.ticks(layout) / 256
    for masked in (True, False):
        pieces = []
        for a, b in pairwise(layout.cu_seqlens.tolist()):
            mask = torch.ones(1, b - a, dtype=torch.long) if masked else None
            inputs = {"inputs_embeds": x[None, a:b], "position_ids": ticks[None, a:b]}
            out = body(**inputs, attention_mask=mask, use_cache=False)  # as in training
            pieces.append(out.last_hidden_state[0])
        if masked:
            torch.testing.assert_close(found, torch.cat(pieces), **CLOSE)
        else:  # without a mask, steps of 1/4 are treated as boundaries
            assert (found - torch.cat(pieces)).abs().max() > 1e-2
    assert (found - own.backbone(x / (model.backbone._text_scale or 1.0), typed)).abs().max() > 1e-2


@torch.no_grad()
def test_v2pe_goes_on_from_the_compressed_position() -> None:
    model = wrapped("Qwen2", V2PE(8, delta=0.25))
    batch = replace(V2PE_PACK, visual_index=torch.full_like(V2PE_PACK.visual_index, -1), images=None)
    batch.layout.token_type.fill_(1)  # image tokens are embedded as text here
    full = tiny.logits(model, batch).split([17, 16])
    for a, b in zip(full, stepwise(model, batch, [[14, 8], [1, 1], [2, 7]]), strict=True):
        torch.testing.assert_close(b, a, **CLOSE)


def test_dynamic_ntk_is_a_matter_of_each_segment() -> None:
    rope = RoPE(8, 10000.0, ntk_factor=2.0, max_position_embeddings=10)
    model = wrapped("Llama", rope)
    apart = torch.cat([tiny.logits(model, b) for b in tiny.separate(PACK)])
    torch.testing.assert_close(tiny.logits(model, PACK), apart, **CLOSE)
    assert (tiny.logits(model, PACK) - tiny.logits(wrapped("Llama"), PACK)).abs().max() > 1e-2
    scaled = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}
    own = TransformersLM(CASES["Llama"][0] | scaled | {"max_position_embeddings": 10})
    x = torch.randn(PACK.num_tokens, tiny.WIDTH)
    with pytest.raises(ValueError, match="a segment has 17 positions and LlamaModel rescales"):
        own(x, PACK.layout)
    assert own(x, PACK.layout, rope.rotary(PACK.layout)).isfinite().all()


@pytest.mark.parametrize("built_in", [torch.float32, torch.bfloat16])
def test_half_precision_leaves_the_own_frequencies_alone(built_in) -> None:
    part = TransformersLM(CASES["Llama"][0])
    torch.set_default_dtype(built_in)  # as Lightning does where weights are half precision
    try:
        half = TransformersLM(CASES["Llama"][0]).to(torch.bfloat16)
    finally:
        torch.set_default_dtype(torch.float32)
    assert half.refuses_tables is None
    positions = torch.arange(500, 516)[None]
    one, two = (p.body.rotary_emb(torch.zeros(1, 16, 32), positions) for p in (part, half))
    assert torch.equal(one[0], two[0])
    assert half(torch.randn(38, 32, dtype=torch.bfloat16), PACK.layout).dtype == torch.bfloat16


def tables(width: int, layout: Layout) -> Exact:
    return RoPE(width).rotary(layout)


def yarn(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("config", "width", "message"),
    [
        (CASES["GPT-2"][0], 8, "GPT2Model has no rotary positions to replace"),
        (CASES["Llama"][0], 12, "tables are 12 wide and LlamaModel rotates 8 channels"),
        (CASES["Gemma3"][0], 8, "Gemma3TextModel has a rotary embedding for each kind of layer"),
        (yarn(CASES["Llama"][0]), 8, r"LlamaModel scales its rotary positions \(rope_type 'yarn'\)"),
    ],
)
def test_tables_that_would_mean_something_else_are_refused(config, width, message) -> None:
    part = TransformersLM(config)
    with pytest.raises(WiringError, match=message):
        part(torch.randn(38, 32), PACK.layout, tables(width, PACK.layout))
    assert part(torch.randn(38, 32), PACK.layout).isfinite().all()


def test_widths_are_compared_when_the_model_is_composed() -> None:
    assert TransformersLM(CASES["Phi, part of a head"][0]).head_dim == 4, "half of a head is rotated"
    with pytest.raises(WiringError, match="V2PE is made for heads of 8 and TransformersLM has 4"):
        MultimodalModel(backbone=TransformersLM(CASES["Phi, part of a head"][0]), position=V2PE(8))


# Configurations.


def test_a_configuration_from_a_folder(tmp_path) -> None:
    fields = CASES["Qwen2"][0] | {"dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for path in (tmp_path, tmp_path / "config.json"):
        part = TransformersLM(str(path))
        assert {p.dtype for p in part.parameters()} == {torch.float32}, "the type of the weights is the recipe's choice"
        assert [n for n, _ in part.named_parameters()] == [
            n for n, _ in TransformersLM(CASES["Qwen2"][0]).named_parameters()
        ]


def test_a_cap_of_the_attention_logits_needs_eager_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where transformers accepts sdpa for such a model, as up to 5.20."""
    monkeypatch.setattr(transformers.Gemma2PreTrainedModel, "_supports_sdpa", True)
    with pytest.raises(ValueError, match="gemma2 caps its attention logits, which sdpa ignores: give attn_impl"):
        TransformersLM(CASES["Gemma2"][0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("nobody/nothing", "'nobody/nothing' does not exist"),
        ({"hidden_size": 8}, "names no model_type, only hidden_size"),
        ({"model_type": "bert"}, "'bert' is not a decoder-only model"),
        ({"model_type": "siglip_vision_model"}, "no causal language model for model_type 'siglip_vision_model'"),
        ({"model_type": "lama"}, "no model_type 'lama'; did you mean .*'llama'"),
        (CASES["Gemma2"][0], "Gemma2Model has no sdpa attention: give attn_implementation: eager"),
    ],
)
def test_wrong_configurations_are_refused(config, message) -> None:
    with pytest.raises(ValueError, match=message):
        TransformersLM(config)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba", "state_size": 4}
        | shape("num_key_value_heads", "num_attention_heads", "max_position_embeddings"),
        {"model_type": "lfm2", **SHAPE, "layer_types": ["conv", "full_attention"]},
    ],
)
def test_a_model_of_states_trains_and_does_not_decode(config) -> None:
    part = TransformersLM(config, **EAGER).eval()
    x = torch.randn(38, 32)
    out = part(x, PACK.layout)
    for a, b, batch in zip(out.split([17, 9, 12]), x.split([17, 9, 12]), tiny.separate(PACK), strict=True):
        torch.testing.assert_close(part(b, batch.layout), a, **CLOSE)
    cache = KVCache()
    cache.begin(PACK.layout)
    with pytest.raises(ValueError, match="has layers without keys and values: it cannot decode"):
        part(x, PACK.layout, None, cache)


def test_a_segment_past_the_learned_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="a segment has 70 positions and GPT2Model has 64"):
        TransformersLM(CASES["GPT-2"][0])(torch.randn(70, 32), tiny.pack([("t", 70)]).layout)


def test_a_copy_is_a_part_of_its_own() -> None:
    part = TransformersLM(CASES["Llama"][0])
    twin, x = copy.deepcopy(part), torch.randn(38, 32)
    assert torch.equal(part(x, PACK.layout), twin(x, PACK.layout))
    twin.init_weights(5)
    assert not torch.equal(part(x, PACK.layout), twin(x, PACK.layout))


def test_flops_are_those_of_our_own_decoder() -> None:
    ours = tiny.backbone().flops(PACK)
    assert TransformersLM(CASES["Qwen2"][0]).flops(PACK) == ours
    half, full = (
        TransformersLM(CASES["OLMoE"][0] | {"num_experts_per_tok": n}).flops(PACK) for n in (2, 4)
    )  # fmt: skip
    assert half < full


@pytest.mark.parametrize("module", [transformers_lm, transformers_rotary, transformers_vision, wrapped_module, padding])
def test_importing_the_packages_does_not_import_the_models(module) -> None:
    """The import of transformers' models takes seconds and happens on first use."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not ast.unparse(node).split()[1].startswith("transformers")
            assert "transformers_cache" not in ast.unparse(node)


def test_the_attentions_agree() -> None:
    model = wrapped("Mistral with a window of 5")
    eager = TransformersLM(CASES["Mistral with a window of 5"][0], **EAGER).eval()
    eager.load_state_dict(model.backbone.state_dict())
    x = torch.randn(38, 32)
    torch.testing.assert_close(eager(x, PACK.layout), model.backbone(x, PACK.layout), **CLOSE)
