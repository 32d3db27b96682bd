from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints_models import hf_model
from mmcomponents.checkpoints import CheckpointError, ModelSpec, read
from mmcomponents.checkpoints.decoder_families import decoder_parts
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
        ({"projector_hidden_act": "relu"}, "projector_hidden_act relu of the projector is not supported, only gelu"),
        ({"num_channels": 1}, "num_channels 1"),
        ({"downsample_ratio": 0.3}, "downsample_ratio 0.3 is not 1 / n"),
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


WITHOUT_EFFECT = {
    "initializer_range",  # of weights that a folder has
    "tie_word_embeddings",  # decided by the names of the weights
    "image_seq_length",  # of the processor, which follows from the sizes
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",  # of generation, see `end_ids`
    "sliding_window",  # without use_sliding_window
    "max_window_layers",
    "pretraining_tp",  # of Llama 1, read by no present version
}
OTHERS = {
    "image_size": [32, 32],
    "patch_size": [8, 8],
    "downsample_ratio": 0.25,
    "norm_type": "rms_norm",
    "layer_types": ["sliding_attention"],
    "rope_parameters": {"rope_type": "linear", "factor": 2.0},
    "vision_feature_layer": -2,
}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_every_field_that_transformers_reads_is_read_or_refused(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A field that neither changes the model nor is refused or warned of gives other logits without a word."""
    base = hf_model("300m", kind, False).config
    for part in (None, "vision_config", "text_config"):
        config = base if part is None else getattr(base, part)
        names = [name for cls in type(config).__mro__ if cls.__module__.startswith("transformers.models")
                 for name in cls.__annotations__]  # fmt: skip
        assert len(names) > 5
        for name in {*names} - WITHOUT_EFFECT - {"vision_config", "text_config", "model_type"}:
            value = getattr(config, name)
            plain = {bool: not value, int: 2 * (value or 1) if not isinstance(value, str | list | dict) else 0}
            other = OTHERS.get(name, plain.get(type(value), "relu" if isinstance(value, str) else 0.25))
            if name in ("num_key_value_heads", "head_dim") and value is None:
                other = 2
            changed = base.to_dict()
            (changed if part is None else changed[part])[name] = other
            caplog.clear()
            try:
                same = HFInternVL().spec(changed, []) == HFInternVL().spec(base.to_dict(), [])
            except (CheckpointError, ValueError):
                continue
            assert not same or caplog.records, f"{part}.{name}: {value} and {other} give the same model"


def test_values_that_a_configuration_lacks_are_those_of_transformers() -> None:
    for kind in ("qwen2", "qwen3", "llama"):
        cls = type(hf_model("300m", kind, False).config.text_config)
        given = {"model_type": kind, "hidden_size": 2048, "num_attention_heads": 64, "num_hidden_layers": 2}
        theirs = cls(**given)
        parts = decoder_parts({**given, "intermediate_size": 64}, tied=True)
        backbone, position = parts["backbone"]["init_args"], parts["position"]["init_args"]
        assert backbone["num_kv_heads"] == theirs.num_key_value_heads
        assert backbone["head_dim"] == (getattr(theirs, "head_dim", None) or 2048 // 64)
        assert position["max_position_embeddings"] == theirs.max_position_embeddings
