"""Format of the `-hf` repositories, which transformers and servers built on it read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.config_values import integer, merged_patches, number, only, warn_of_dropout
from mmcomponents.checkpoints.decoder_families import (
    IGNORED,
    decoder_config,
    decoder_parts,
    decoder_rules,
    decoder_type,
)
from mmcomponents.checkpoints.files import read_json
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.official import layers_of
from mmcomponents.checkpoints.rules import Rule, Thirds, rename
from mmcomponents.checkpoints.spec import ModelSpec, Processing
from mmcomponents.data.media.images import NORMALIZATIONS
from mmcomponents.limits import MAX_LAYERS, MAX_ROWS, MAX_TILES

_EMBEDDINGS = {
    "cls_token": "class_embedding",
    "patch_embeddings.projection.{p}": "patch_embedding.{p}",
    "position_embeddings": "position_embedding",
}
_BLOCK = {
    "layernorm_before.{p}": "norm1.{p}",
    "layernorm_after.{p}": "norm2.{p}",
    "attention.projection_layer.{p}": "attn.proj.{p}",
    "attention.q_norm.{p}": "attn.q_norm.{p}",
    "attention.k_norm.{p}": "attn.k_norm.{p}",
    "mlp.fc1.{p}": "mlp.fc1.{p}",
    "mlp.fc2.{p}": "mlp.fc2.{p}",
    "lambda_1": "ls1",
    "lambda_2": "ls2",
}
_PROJECTOR = {"layer_norm": "norm", "linear_1": "fc1", "linear_2": "fc2"}

QK_NORM_EPS = 1e-6
"""Fixed in transformers' InternVL."""


class HFInternVL(Format):
    """Format of `InternVLForConditionalGeneration`, with the weight names on disk or in memory.

    Repositories hold `vision_tower.* multi_modal_projector.* language_model.model.* language_model.lm_head.*`, which
    servers read and this class writes. Recent versions of transformers use `model.vision_tower.* …
    model.language_model.* lm_head.*` in memory. Both are read.
    """

    name = "transformers"
    ignored = IGNORED

    def matches(self, config: Mapping[str, Any]) -> bool:
        """See the base class; decided by the model type."""
        return config.get("model_type") == "internvl"

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        text = _with_defaults(config["text_config"])
        only(config, "projector", projector_hidden_act="gelu")
        # Decided by names: `tie_word_embeddings` is True by default in recent versions, and missing where it was False.
        tied = "language_model.lm_head.weight" not in names
        strategy = config.get("vision_feature_select_strategy", "default")
        if strategy != "default":
            raise CheckpointError(
                f"vision_feature_select_strategy {strategy!r} keeps the class token, which is not supported"
            )
        vision = _vision_arguments(config["vision_config"])
        level = config.get("vision_feature_layer", -1)
        if level != -1:
            if not isinstance(level, int) or isinstance(level, bool):
                raise CheckpointError(f"vision_feature_layer {level}: MLPProjector needs a single level")
            vision["levels"] = [level]
        block = merged_patches(config)
        parts = {
            "vision": {"class_path": "InternViT", "init_args": vision},
            "merger": {"class_path": "PixelUnshuffle", "init_args": {"rows": block, "columns": block, "order": "v2"}},
            "projector": {"class_path": "MLPProjector"},
            **decoder_parts(text, tied),
        }
        processing = Processing(tile_size=vision["image_size"])
        return ModelSpec(
            parts, integer(text, "vocab_size", most=MAX_ROWS), config.get("image_token_id", 151667), processing
        )

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """See the base class; names are those on disk."""
        kind = decoder_type(config["text_config"]) or "llama"
        backbone = spec.part("backbone", "DecoderLM", self.name)
        return [
            *_vision_rules("vision_tower."),
            *_projector_rules(),
            *decoder_rules(kind, "language_model.", backbone),
        ]

    def refined(self, spec: ModelSpec, folder: Path) -> ModelSpec:
        """Adds tiling and normalisation from the processor files, of which transformers' versions have two kinds."""
        found: dict[str, Any] = {}
        if (folder / "processor_config.json").exists():
            found |= read_json(folder / "processor_config.json").get("image_processor") or {}
        if (folder / "preprocessor_config.json").exists():
            found |= read_json(folder / "preprocessor_config.json")
        # `crop_to_patches` is ignored: InternVLProcessor sets it in every call, and published files have False.
        processing = replace(
            spec.processing,
            min_tiles=integer(found, "min_patches", 1, MAX_TILES),
            max_tiles=integer(found, "max_patches", 12, MAX_TILES),
            normalization=_normalization(found),
        )
        return replace(spec, processing=processing)

    def normalized(self, name: str) -> str:
        """Returns the name on disk of a name in memory."""
        for memory, disk in _ON_DISK.items():
            if name.startswith(memory):
                return disk + name.removeprefix(memory)
        return name

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class."""
        vision = spec.part("vision", "InternViT", self.name)
        merger = spec.part("merger", "PixelUnshuffle", self.name)
        projector = spec.part("projector", "MLPProjector", self.name)
        if merger.get("order", "v2") != "v2":
            raise CheckpointError(
                "the format transformers merges patches in order v2, and this model in order v1, so that "
                "its images would be transposed; export it as official"
            )
        rows, columns = merger.get("rows", 2), merger.get("columns", 2)
        eps = vision.get("eps", 1e-6)
        levels = vision.get("levels") or [-1]
        reasons = {
            f"blocks of {rows}x{columns} patches": rows != columns,
            f"q/k norms with eps {eps}": bool(vision.get("qk_norm")) and eps != QK_NORM_EPS,
            f"a projector norm with eps {projector.get('eps')}": projector.get("eps", 1e-5) != 1e-5,
            f"{len(levels)} levels of the encoder": len(levels) != 1,
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if spec.image_token_id is None:
            raise CheckpointError(f"the format {self.name} needs the image_token_id, as there is no tokenizer")
        if found:
            raise CheckpointError(f"the format {self.name} cannot express {' and '.join(found)}")
        text_source = source.get("text_config") or {}
        text = decoder_config(spec, self.name, decoder_type(text_source))
        size, patch = vision.get("image_size", 448), vision.get("patch_size", 14)
        return {
            **source,
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "downsample_ratio": 1 / rows,
            "image_seq_length": (size // patch // rows) ** 2,
            "image_token_id": spec.image_token_id,
            "projector_hidden_act": "gelu",
            "text_config": {**text_source, **text, "eos_token_id": text_source.get("eos_token_id")},
            "tie_word_embeddings": text["tie_word_embeddings"],
            "vision_config": {**(source.get("vision_config") or {}), **_vision_config(vision)},
            "vision_feature_layer": -1,  # blocks past the level are not written
            "vision_feature_select_strategy": "default",
        }


def _normalization(processor: Mapping[str, Any]) -> str:
    given = (processor.get("image_mean"), processor.get("image_std"))
    if given == (None, None):
        return "imagenet"
    for name, known in NORMALIZATIONS.items():
        if all(a is not None and _close(a, b) for a, b in zip(given, known, strict=True)):
            return name
    raise CheckpointError(f"image_mean {given[0]} and image_std {given[1]} are not one of {', '.join(NORMALIZATIONS)}")


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b, strict=True))


_ON_DISK = {
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
}


def _with_defaults(text: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the model type Qwen2, transformers' default, to a text configuration without type."""
    return {"model_type": "qwen2", **text}


def _vision_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {key: config.get(key, default) for key, default in (("image_size", 448), ("patch_size", 14))}
    for key, value in sizes.items():
        if isinstance(value, list | tuple):
            if len(set(value)) != 1:
                raise CheckpointError(f"{key} {value} of the vision encoder is not square")
            sizes[key] = value[0]
    fixed = {"use_mean_pooling": True, "use_absolute_position_embeddings": True, "use_mask_token": False}
    only(config, "vision encoder", hidden_act="gelu", num_channels=3, **fixed)
    warn_of_dropout(config, "vision encoder")
    qk_norm, eps = bool(config.get("use_qk_norm", False)), number(config, "layer_norm_eps", 1e-6)
    if qk_norm and eps != QK_NORM_EPS:
        raise CheckpointError(f"layer_norm_eps {eps} differs from that of the q/k norms, {QK_NORM_EPS}")
    return {
        "hidden_size": integer(config, "hidden_size", 1024),
        "num_layers": integer(config, "num_hidden_layers", 24, MAX_LAYERS),
        "num_heads": integer(config, "num_attention_heads", 16),
        "intermediate_size": integer(config, "intermediate_size", 4096),
        "image_size": integer(sizes, "image_size"),
        "patch_size": integer(sizes, "patch_size"),
        "norm": config.get("norm_type", "layer_norm"),
        "qkv_bias": bool(config.get("attention_bias", False)),
        "qk_norm": qk_norm,
        "eps": eps,
        "layer_scale": number(config, "layer_scale_init_value", 0.1),
    }


def _vision_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    size, patch = vision.get("image_size", 448), vision.get("patch_size", 14)
    return {
        "architectures": ["InternVLVisionModel"],
        "model_type": "internvl_vision",
        "hidden_size": vision.get("hidden_size", 1024),
        "num_hidden_layers": layers_of(vision),
        "num_attention_heads": vision.get("num_heads", 16),
        "intermediate_size": vision.get("intermediate_size", 4096),
        "image_size": [size, size],
        "patch_size": [patch, patch],
        "norm_type": vision.get("norm", "layer_norm"),
        "attention_bias": vision.get("qkv_bias", True),
        "use_qk_norm": vision.get("qk_norm", False),
        "layer_norm_eps": vision.get("eps", 1e-6),
        "layer_scale_init_value": vision.get("layer_scale", 0.1),
        "hidden_act": "gelu",
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
    }


def _vision_rules(prefix: str) -> list[Rule]:
    theirs, ours = f"{prefix}encoder.layer.{{n}}.", "vision.blocks.{n}."
    queries = tuple(f"{theirs}attention.{name}_proj.{{p}}" for name in "qkv")
    return [
        *(rename(f"{prefix}embeddings.{a}", f"vision.{b}") for a, b in _EMBEDDINGS.items()),
        Rule(queries, (f"{ours}attn.qkv.{{p}}",), Thirds()),
        *(rename(f"{theirs}{a}", f"{ours}{b}") for a, b in _BLOCK.items()),
    ]


def _projector_rules() -> list[Rule]:
    names = _PROJECTOR.items()
    return [rename(f"multi_modal_projector.{a}.{{p}}", f"projector.{b}.{{p}}") for a, b in names]
