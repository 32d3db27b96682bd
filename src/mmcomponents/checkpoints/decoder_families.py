"""Configurations and weight names of the language models of other projects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.config_values import integer, number, warn_of_dropout
from mmcomponents.checkpoints.rules import Grouped, Rule, rename
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.limits import MAX_LAYERS, MAX_ROWS

ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "internlm2": "InternLM2ForCausalLM",
    "internlm3": "InternLM3ForCausalLM",
}
"""Class of each model type that `DecoderLM` supports."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "qwen3": {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    "llama": {"max_position_embeddings": 2048},
}
"""Values of transformers for keys that a configuration lacks; those that are null mean the number of heads."""

IGNORED = (r".*rotary_emb\.inv_freq",)
"""Patterns of buffers that older versions of transformers saved."""


def decoder_type(config: Mapping[str, Any]) -> str | None:
    """Returns the model type of a language model's configuration; None if `DecoderLM` does not support it."""
    if str(config.get("model_type")) in ARCHITECTURES:
        return str(config["model_type"])
    classes = config.get("architectures")
    names = classes if isinstance(classes, list) else []
    return next((kind for kind, name in ARCHITECTURES.items() if name in names), None)


def decoder_parts(config: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    """Returns embedder, position, backbone and head of a language model.

    Args:
        config: Configuration as written by transformers or the model's authors.
        tied: Whether the head shares the embedding weight.

    Raises:
        CheckpointError: The model has a feature that `DecoderLM` does not support.
    """
    kind = decoder_type(config)
    if kind is None:
        name = config.get("model_type") or config.get("architectures") or "unknown"
        raise CheckpointError(
            f"a language model of type {name} is not one of {', '.join(ARCHITECTURES)}; TransformersLM wraps others"
        )
    _refuse(config, kind)
    warn_of_dropout(config, "language model")
    config = _given({**_DEFAULTS.get(kind, {}), **config})
    heads, width = integer(config, "num_attention_heads"), integer(config, "hidden_size")
    bias = {"qwen2": True, "internlm3": bool(config.get("qkv_bias", False))}.get(kind, False)
    backbone = {
        "hidden_size": width,
        "num_layers": integer(config, "num_hidden_layers", most=MAX_LAYERS),
        "num_heads": heads,
        "num_kv_heads": integer(config, "num_key_value_heads", heads),
        "intermediate_size": integer(config, "intermediate_size"),
        "head_dim": integer(config, "head_dim", width // heads),
        "qkv_bias": bias,
        "qk_norm": kind == "qwen3",
        "eps": number(config, "rms_norm_eps", 1e-6),
    }
    head = {"class_path": "LMHead", "init_args": {"tied": tied}}
    return {
        "embedder": {"class_path": "TokenEmbedder"},
        "position": {"class_path": "RoPE", "init_args": _rope(config)},
        "backbone": {"class_path": "DecoderLM", "init_args": backbone},
        "heads": {"lm": head},
    }


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration without the keys that are None."""
    return {key: value for key, value in config.items() if value is not None}


def _refuse(config: Mapping[str, Any], kind: str) -> None:
    act = config.get("hidden_act", "silu")
    # Qwen2 has its biases regardless of these keys.
    biases = [key for key in ("attention_bias", "mlp_bias", "bias") if config.get(key) and kind != "qwen2"]
    reasons = {
        f"hidden_act {act}": act not in ("silu", "swish"),
        "a sliding window": bool(config.get("use_sliding_window"))
        or not {*(config.get("layer_types") or ())} <= {"full_attention"},
        f"{' and '.join(biases)}": bool(biases),
        "partial rotary positions": float(_rope_config(config).get("partial_rotary_factor") or 1.0) != 1.0,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(
            f"DecoderLM does not support this {kind}, which has {' and '.join(found)}; TransformersLM wraps it"
        )


def _rope_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rotary settings: transformers 5 has a single object, older versions and other projects two keys."""
    return {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}


def rope_base(config: Mapping[str, Any]) -> float | None:
    """Returns the rotary base of a configuration; None if it has none."""
    found = _given({**_given(config), **_given(_rope_config(config))})
    return number(found, "rope_theta", 0.0) if "rope_theta" in found else None


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    table = _rope_config(config)
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind not in ("default", "dynamic"):
        raise CheckpointError(f"rotary scaling of type {kind} is not supported, only default and dynamic")
    return {
        "base": 10_000.0 if (base := rope_base(config)) is None else base,
        "ntk_factor": number({"factor": table["factor"]}, "factor", 1.0) if kind == "dynamic" else None,
        "max_position_embeddings": integer(_given(config), "max_position_embeddings", 32768, MAX_ROWS),
    }


def decoder_rules(kind: str, prefix: str, backbone: Mapping[str, Any]) -> list[Rule]:
    """Returns the rules for the weight names of a language model.

    Args:
        kind: Model type.
        prefix: Prefix before `model.` and `lm_head.`.
        backbone: Arguments of the `DecoderLM`.
    """
    if kind == "internlm2":
        return _internlm2_rules(prefix, backbone)
    return [
        rename(f"{prefix}lm_head.weight", "heads.lm.weight"),
        rename(f"{prefix}model.embed_tokens.weight", "embedder.embedding.weight"),
        rename(f"{prefix}model.{{rest}}", "backbone.{rest}"),
    ]


def _internlm2_rules(prefix: str, backbone: Mapping[str, Any]) -> list[Rule]:
    theirs, ours = f"{prefix}model.layers.{{n}}.", "backbone.layers.{n}."
    heads = int(backbone["num_heads"])
    qkv = Grouped(heads, int(backbone.get("num_kv_heads") or heads), int(backbone["head_dim"]))
    names = {
        "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
    }
    projections = tuple(f"{ours}self_attn.{name}_proj.weight" for name in "qkv")
    return [
        rename(f"{prefix}output.weight", "heads.lm.weight"),
        rename(f"{prefix}model.tok_embeddings.weight", "embedder.embedding.weight"),
        rename(f"{prefix}model.norm.weight", "backbone.norm.weight"),
        Rule((f"{theirs}attention.wqkv.weight",), projections, qkv),
        *(rename(f"{theirs}{a}.weight", f"{ours}{b}.weight") for a, b in names.items()),
    ]


def decoder_config(spec: ModelSpec, target: str, kind: str | None = None) -> dict[str, Any]:
    """Returns the configuration of the language model of a spec, in keys that all versions of transformers read.

    Args:
        spec: The model.
        target: Name of the format, for messages.
        kind: Model type. None: the type that has these biases and norms.

    Raises:
        CheckpointError: The model has other parts than a `DecoderLM` with an `LMHead` (a `Verbalizer` is one).
    """
    backbone = spec.part("backbone", "DecoderLM", target)
    spec.part("embedder", "TokenEmbedder", target)
    head = ModelSpec(spec.parts.get("heads") or {}).part("lm", ("LMHead", "Verbalizer"), target)
    others = sorted(set(spec.parts.get("heads") or {}) - {"lm"})
    if others:
        raise CheckpointError(f"the format {target} has only the head lm, and this model also has {', '.join(others)}")
    bias, norm = backbone.get("qkv_bias", True), backbone.get("qk_norm", False)
    if bias and norm:
        raise CheckpointError(f"the format {target} has no decoder with both qkv_bias and qk_norm")
    kind = kind or ("qwen2" if bias else "qwen3" if norm else "llama")
    heads, width = int(backbone["num_heads"]), int(backbone["hidden_size"])
    return {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": spec.vocab_size,
        "hidden_size": width,
        "intermediate_size": backbone["intermediate_size"],
        "num_hidden_layers": backbone["num_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": backbone.get("num_kv_heads") or heads,
        "head_dim": backbone.get("head_dim") or width // heads,
        "hidden_act": "silu",
        "rms_norm_eps": backbone.get("eps", 1e-6),
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "use_cache": True,
        "tie_word_embeddings": bool(head.get("tied", False)),
        **({"attention_bias": False} if kind != "qwen2" else {}),
        **_rope_keys(spec, target),
    }


def _rope_keys(spec: ModelSpec, target: str) -> dict[str, Any]:
    """Returns the rotary keys: V2PE with delta 1 is RoPE up to the trained length; other formats cannot store delta."""
    position = spec.parts.get("position") or {}
    name = str(position.get("class_path", "nothing")).rpartition(".")[2]
    if name not in ("RoPE", "MovingBaseRoPE", "V2PE"):
        raise CheckpointError(f"the format {target} needs RoPE or V2PE as position, and this model has {name}")
    args = position.get("init_args") or {}
    theta = float(args.get("base", 1_000_000.0))
    factor = args.get("ntk_factor")
    # Exactly two keys: the configurations of InternLM2 and older Llamas check their number.
    key = "type" if target == "official" else "rope_type"
    scaling = {key: "dynamic", "factor": float(factor)} if factor is not None else None
    return {
        "max_position_embeddings": int(args.get("max_position_embeddings", 32768)),
        "rope_theta": theta,
        "rope_scaling": scaling,
    }
