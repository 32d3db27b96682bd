from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmcomponents
from figures import GOLDEN
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, convert, read
from mmcomponents.checkpoints.official import Official

GIVEN = GOLDEN / "g_tiny_official"


def _config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GIVEN / "vit300m_like_v2_config.json").read_text())
    return config


def _folder(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder


def test_names_and_shapes_are_those_of_the_reference(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "in", _config(), load_file(GIVEN / "vit300m_like_v2.safetensors"))
    convert(read(folder), tmp_path / "ours", "mmcomponents")
    convert(read(tmp_path / "ours"), tmp_path / "out", "official")
    written = {name: list(t.shape) for name, t in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert written == json.loads((GIVEN / "vit300m_like_v2_keys.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    given = _config()
    ours = {"image_token_id", "dtype", "torch_dtype", "architectures", "system_message", "tie_word_embeddings"}
    changed = {k for k, v in config.items() if k not in ours and v != given.get(k)} - {"vision_config", "llm_config"}
    assert not changed
    for part in ("vision_config", "llm_config"):
        both = given[part].keys() & config[part].keys()
        assert {k for k in both if given[part][k] != config[part][k]} <= {"architectures", "use_cache"}


def _internlm2(tied: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Tiny model with the language model renamed and regrouped as in InternLM2."""
    config, state = _config(), load_file(GIVEN / "vit300m_like_v2.safetensors")
    text = config["llm_config"] | {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "bias": False}
    out = {name: value for name, value in state.items() if not name.startswith("language_model.")}
    old = "language_model.model."
    out["language_model.model.tok_embeddings.weight"] = state[f"{old}embed_tokens.weight"]
    out["language_model.model.norm.weight"] = state[f"{old}norm.weight"]
    if not tied:
        out["language_model.output.weight"] = state["language_model.lm_head.weight"]
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    for n in range(2):
        at = f"{old}layers.{n}."
        q, k, v = (state[f"{at}self_attn.{x}_proj.weight"].view(-1, 10, 40) for x in "qkv")  # heads of 10
        groups = [torch.cat((q[2 * g : 2 * g + 2], k[g : g + 1], v[g : g + 1])) for g in range(2)]
        out[f"{at}attention.wqkv.weight"] = torch.cat(groups).flatten(0, 1)
        out[f"{at}attention.wo.weight"] = state[f"{at}self_attn.o_proj.weight"]
        out[f"{at}attention_norm.weight"] = state[f"{at}input_layernorm.weight"]
        out[f"{at}ffn_norm.weight"] = state[f"{at}post_attention_layernorm.weight"]
        out |= {f"{at}feed_forward.{b}.weight": state[f"{at}mlp.{a}.weight"] for a, b in names.items()}
    return config | {"llm_config": text}, out


@pytest.mark.parametrize("tied", [False, True])
def test_internlm2_is_read_and_comes_back_in_its_own_names(tmp_path: Path, tied: bool) -> None:
    config, state = _internlm2(tied)
    folder = _folder(tmp_path / "in", config, state)
    model = mmcomponents.load(folder, image_token_id=60)
    plain = load_file(GIVEN / "vit300m_like_v2.safetensors")
    for x in "qkv":
        found = model.state_dict()[f"backbone.layers.1.self_attn.{x}_proj.weight"]
        assert torch.equal(found, plain[f"language_model.model.layers.1.self_attn.{x}_proj.weight"])
    convert(read(folder), tmp_path / "ours", "mmcomponents")
    convert(read(tmp_path / "ours"), tmp_path / "out", "official")
    back = load_file(tmp_path / "out" / "model.safetensors")
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_internlm3_is_a_llama_for_transformers(tmp_path: Path) -> None:
    config, state = _config(), load_file(GIVEN / "vit300m_like_v2.safetensors")
    state = {name: value for name, value in state.items() if not ("self_attn" in name and name.endswith("bias"))}
    config["llm_config"] |= {
        "model_type": "internlm3",
        "architectures": ["InternLM3ForCausalLM"],
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
    }
    folder = _folder(tmp_path / "in", config, state)
    checkpoint = read(folder, image_token_id=60)
    assert checkpoint.spec.parts["backbone"]["init_args"]["qkv_bias"] is False
    assert checkpoint.spec.parts["position"]["init_args"]["ntk_factor"] == 6.0
    convert(checkpoint, tmp_path / "hf", "transformers")
    from transformers import AutoModelForImageTextToText

    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "hf").eval()
    assert theirs.config.text_config.model_type == "llama"
    io = load_file(GIVEN / "vit300m_like_v2_io.safetensors")
    with torch.no_grad():
        expected = theirs(input_ids=io["input_ids"][:1], pixel_values=io["pixel_values"][:2]).logits[0]
        found = checkpoint.load().logits(io["input_ids"][0], io["pixel_values"][:2])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_encoder_alone_is_read(tmp_path: Path) -> None:
    config, state = _config(), load_file(GIVEN / "vit300m_like_v2.safetensors")
    prefix = "vision_model."
    alone = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    model = mmcomponents.load(_folder(tmp_path / "in", config["vision_config"], alone))
    assert set(model.parts()) == {"vision"}
    io = load_file(GIVEN / "vit300m_like_v2_io.safetensors")
    assert model.vision is not None
    with torch.no_grad():
        tokens = model.vision(ImageBatch(io["pixel_values"], torch.zeros(3))).primary.tokens
    torch.testing.assert_close(tokens, io["vision_last_hidden"][:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_sliding_window": True}, "sliding window"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "type yarn"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}, "type phi3 is not one of"),
    ],
)
def test_language_models_that_ours_is_not_are_refused(change: dict[str, Any], message: str) -> None:
    config = _config()
    config["llm_config"] |= change
    with pytest.raises(CheckpointError, match=message):
        Official().spec(config, [])


def test_settings_of_the_tiling_are_read() -> None:
    config = _config() | {
        "max_dynamic_patch": 24,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "system_message": "",
    }
    processing = Official().spec(config, []).processing
    assert (processing.max_tiles, processing.tile_size, processing.thumbnail, processing.system) == (24, 56, True, None)
    assert Official().spec(config | {"dynamic_image_size": False}, []).processing.max_tiles == 1
