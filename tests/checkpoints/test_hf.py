from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints_models import hf_model
from mmcomponents.checkpoints import CheckpointError, ModelSpec, read
from mmcomponents.checkpoints.hf import HFInternVL
from mmcomponents.data.media.images import NORMALIZATIONS


def _config(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = hf_model("300m", "qwen2", False).config.to_dict()
    for key, value in changes.items():
        part = config if key in config else config["vision_config"]
        part[key] = value
    return config


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_tiling_and_colours_come_from_either_file_of_the_processor(tmp_path: Path, file: str) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    mean, std = NORMALIZATIONS["clip"]
    settings = {"max_patches": 6, "min_patches": 2, "image_mean": mean, "image_std": std, "crop_to_patches": True}
    whole = settings if file.startswith("pre") else {"image_processor": settings}
    (tmp_path / file).write_text(json.dumps(whole))
    processing = read(tmp_path).spec.processing
    assert (processing.max_tiles, processing.min_tiles, processing.normalization) == (6, 2, "clip")
    assert processing.tile_size == 16


def test_without_such_files_the_published_settings_hold(tmp_path: Path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    processing = read(tmp_path).spec.processing
    assert (processing.max_tiles, processing.min_tiles, processing.normalization) == (12, 1, "imagenet")


def test_unknown_colours_are_refused(tmp_path: Path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [1.0] * 3}))
    with pytest.raises(CheckpointError, match=r"image_mean \[0.1, 0.1, 0.1\]"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "keeps the class token"),
        ({"vision_feature_layer": [-2, -1]}, "a single level"),
        ({"use_mean_pooling": False}, "use_mean_pooling False"),
        ({"hidden_act": "relu"}, "hidden_act relu"),
        ({"image_size": [16, 32]}, "is not square"),
        ({"use_qk_norm": True, "layer_norm_eps": 1e-5}, "differs from that of the q/k norms"),
    ],
)
def test_what_our_parts_are_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HFInternVL().spec(_config(**changes), [])


def test_a_text_configuration_without_a_type_is_a_qwen2() -> None:
    config = _config()
    del config["text_config"]["model_type"], config["text_config"]["architectures"]
    assert HFInternVL().spec(config, []).parts["backbone"]["init_args"]["qkv_bias"] is True


@pytest.mark.parametrize(
    ("slot", "arguments", "message"),
    [
        ("merger", {"rows": 2, "columns": 1}, "blocks of 2x1 patches"),
        ("merger", {"order": "v1"}, "order v1"),
        ("projector", {"eps": 1e-6}, "projector norm with eps 1e-06"),
        ("vision", {"levels": [1, 2]}, "2 levels"),
        ("vision", {"qk_norm": True, "eps": 1e-5}, "q/k norms with eps 1e-05"),
        ("backbone", {"qk_norm": True}, "both qkv_bias and qk_norm"),
    ],
)
def test_what_the_format_cannot_express_is_named(slot: str, arguments: dict[str, Any], message: str) -> None:
    spec: ModelSpec = HFInternVL().spec(_config(), [])
    part = spec.parts[slot]
    part["init_args"] = {**(part.get("init_args") or {}), **arguments}
    with pytest.raises(CheckpointError, match=message):
        HFInternVL().config(spec, {})


def test_defaults_of_parts_may_be_left_out() -> None:
    spec, written = (HFInternVL().spec(_config(), []) for _ in range(2))
    for name in ("merger", "projector"):
        spec.parts[name]["init_args"] = {}
    assert HFInternVL().config(spec, {}) == HFInternVL().config(written, {})


def test_the_image_token_has_to_be_known() -> None:
    spec = HFInternVL().spec(_config(), [])
    spec.image_token_id = None
    with pytest.raises(CheckpointError, match="image_token_id"):
        HFInternVL().config(spec, {})


def test_v2pe_is_exported_as_the_positions_that_it_has_for_text() -> None:
    spec = HFInternVL().spec(_config(), ["language_model.lm_head.weight"])
    spec.parts["position"] = {"class_path": "mmcomponents.positions.V2PE", "init_args": {"base": 5e5, "delta": 0.25}}
    text = HFInternVL().config(spec, {})["text_config"]
    assert (text["rope_theta"], text["rope_scaling"]) == (5e5, None)
    spec.parts["position"] = {"class_path": "their.Position"}
    with pytest.raises(CheckpointError, match="needs RoPE or V2PE as position, and this model has Position"):
        HFInternVL().config(spec, {})


@pytest.mark.parametrize("said", [True, False])
def test_names_of_weights_and_not_the_configuration_say_whether_a_head_is_tied(said: bool) -> None:
    config = _config(tie_word_embeddings=said)
    config["text_config"]["tie_word_embeddings"] = said
    for names, tied in (([], True), (["language_model.lm_head.weight"], False)):
        assert HFInternVL().spec(config, names).parts["heads"]["lm"]["init_args"]["tied"] is tied


@pytest.mark.parametrize("text", ["qwen2", "qwen3", "llama"])
def test_a_configuration_comes_back_as_it_was(text: str) -> None:
    config: dict[str, Any] = hf_model("300m", text, False).config.to_dict()
    written = HFInternVL().config(HFInternVL().spec(config, ["language_model.lm_head.weight"]), {})
    apart = {"architectures", "vision_config", "text_config", "eos_token_id"}
    for part in ("vision_config", "text_config", None):
        before, after = (config, written) if part is None else (config[part], written[part])
        both = set(before) & set(after) - apart
        assert {key: after[key] for key in both} == {key: before[key] for key in both}
    assert "image_seq_length" in both
