"""Formats of OpenGVLab's repositories: InternVL (`vision_model.* mlp1.* language_model.*`) and InternViT."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
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
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.rules import Rule, rename
from mmcomponents.checkpoints.spec import ModelSpec, Processing
from mmcomponents.limits import MAX_LAYERS, MAX_ROWS, MAX_TILES

log = logging.getLogger(__name__)

_PROJECTOR = {"0": "norm", "1": "fc1", "3": "fc2"}


class Official(Format):
    """Format of InternVL as its authors release it (InternVL2 to InternVL3.5, dense)."""

    name = "official"
    ignored = IGNORED

    def matches(self, config: Mapping[str, Any]) -> bool:
        """See the base class; decided by the model type."""
        return config.get("model_type") == "internvl_chat"

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        text = {**config["llm_config"]}
        tied = not {"language_model.lm_head.weight", "language_model.output.weight"} & set(names)
        if config.get("pad2square"):
            raise CheckpointError("pad2square is set, and this library tiles images without padding")
        if config.get("image_fold"):
            raise CheckpointError(f"image_fold {config['image_fold']} is not supported")
        block = merged_patches(config)
        vision = vision_arguments(config["vision_config"])
        level = config.get("select_layer", -1)
        if not isinstance(level, int) or isinstance(level, bool):
            raise CheckpointError(f"select_layer must be a whole number, got {level!r}")
        if level != -1:
            vision["levels"] = [level]
        order = config.get("ps_version", "v1")  # the released code's default; checkpoints have v2
        parts = {
            "vision": {"class_path": "InternViT", "init_args": vision},
            "merger": {"class_path": "PixelUnshuffle", "init_args": {"rows": block, "columns": block, "order": order}},
            "projector": {"class_path": "MLPProjector"},
            **decoder_parts(text, tied),
        }
        if (template := config.get("template", "internvl2_5")) != "internvl2_5":
            log.warning("prompts are rendered by the template internvl2_5, the model was trained with %s", template)
        dynamic = config.get("dynamic_image_size", True)
        size = int(config.get("force_image_size") or vision["image_size"])
        if size != vision["image_size"]:
            raise CheckpointError(f"force_image_size is {size} and the encoder's image_size {vision['image_size']}")
        tiles = {key: value for key, value in config.items() if value is not None}
        processing = Processing(
            tile_size=size,
            min_tiles=integer(tiles, "min_dynamic_patch", 1, MAX_TILES) if dynamic else 1,
            max_tiles=integer(tiles, "max_dynamic_patch", 12, MAX_TILES) if dynamic else 1,
            thumbnail=bool(config.get("use_thumbnail", True)),
            system=config.get("system_message") or None,
        )
        return ModelSpec(parts, integer(text, "vocab_size", most=MAX_ROWS), config.get("image_token_id"), processing)

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """See the base class."""
        kind = decoder_type(config["llm_config"]) or "llama"
        return [
            *vision_rules("vision_model."),
            *(rename(f"mlp1.{a}.{{p}}", f"projector.{b}.{{p}}") for a, b in _PROJECTOR.items()),
            *decoder_rules(kind, "language_model.", spec.part("backbone", "DecoderLM", self.name)),
        ]

    def config(self, spec: ModelSpec, source: Mapping[str, Any]) -> dict[str, Any]:
        """See the base class."""
        vision = spec.part("vision", "InternViT", self.name)
        merger = spec.part("merger", "PixelUnshuffle", self.name)
        spec.part("projector", "MLPProjector", self.name)
        if merger.get("rows", 2) != merger.get("columns", 2):
            raise CheckpointError(f"the format {self.name} merges squares of patches, not {merger}")
        text_source = source.get("llm_config") or {}
        text = decoder_config(spec, self.name, decoder_type(text_source))
        levels = vision.get("levels") or [-1]
        if len(levels) != 1:
            raise CheckpointError(f"the format {self.name} reads one level of the encoder, not {list(levels)}")
        tiles = spec.processing.max_tiles
        return {
            **source,
            "architectures": ["InternVLChatModel"],
            "model_type": "internvl_chat",
            "downsample_ratio": 1 / merger.get("rows", 2),
            "dynamic_image_size": tiles > 1,
            "force_image_size": spec.processing.tile_size,
            "hidden_size": text["hidden_size"],
            "image_token_id": spec.image_token_id,  # not an official key: for folders without tokenizer
            "llm_config": {**text_source, **text},
            "max_dynamic_patch": tiles if tiles > 1 else source.get("max_dynamic_patch", tiles),
            "min_dynamic_patch": spec.processing.min_tiles,
            "pad2square": False,
            "ps_version": merger.get("order", "v2"),
            "select_layer": -1,  # blocks past the level are not written
            "system_message": spec.processing.system,
            "template": source.get("template", "internvl2_5"),
            "tie_word_embeddings": text["tie_word_embeddings"],
            "use_backbone_lora": 0,
            "use_llm_lora": 0,
            "use_thumbnail": spec.processing.thumbnail,
            "vision_config": {**(source.get("vision_config") or {}), **vision_config(vision)},
        }


class InternViTAlone(Format):
    """Format of separately released vision encoders (InternViT-300M-448px-V2_5, InternViT-6B-448px-V2_5)."""

    name = "intern_vit"

    def matches(self, config: Mapping[str, Any]) -> bool:
        """See the base class; decided by the model type, which is 6B for the 300M model too."""
        return config.get("model_type") == "intern_vit_6b"

    def spec(self, config: Mapping[str, Any], names: Collection[str]) -> ModelSpec:
        """See the base class."""
        vision = vision_arguments(config)
        parts = {"vision": {"class_path": "InternViT", "init_args": vision}}
        return ModelSpec(parts, processing=Processing(tile_size=int(vision["image_size"])))

    def rules(self, config: Mapping[str, Any], spec: ModelSpec) -> Sequence[Rule]:
        """See the base class."""
        return vision_rules("")


def layers_of(vision: Mapping[str, Any]) -> int:
    """Returns the number of blocks up to an encoder's single level; no norm follows, so any block can be the last."""
    layers = int(vision.get("num_layers", 24))
    level = int((vision.get("levels") or [-1])[0])
    return level + layers + 1 if level < 0 else level


def vision_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `InternViT` for an official configuration."""
    only(config, "vision encoder", hidden_act="gelu", num_channels=3)
    warn_of_dropout(config, "vision encoder")
    return {
        "hidden_size": integer(config, "hidden_size"),
        "num_layers": integer(config, "num_hidden_layers", 48, MAX_LAYERS),
        "num_heads": integer(config, "num_attention_heads"),
        "intermediate_size": integer(config, "intermediate_size"),
        "image_size": integer(config, "image_size"),
        "patch_size": integer(config, "patch_size"),
        "norm": config.get("norm_type", "rms_norm"),
        "qkv_bias": bool(config.get("qkv_bias", False)),
        "qk_norm": bool(config.get("qk_normalization", True)),
        "eps": number(config, "layer_norm_eps", 1e-6),
        "layer_scale": number(config, "initializer_factor", 0.1),
        "drop_path": number(config, "drop_path_rate", 0.0),
    }


def vision_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the official configuration for arguments of `InternViT`."""
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": vision.get("hidden_size", 1024),
        "num_hidden_layers": layers_of(vision),
        "num_attention_heads": vision.get("num_heads", 16),
        "intermediate_size": vision.get("intermediate_size", 4096),
        "image_size": vision.get("image_size", 448),
        "patch_size": vision.get("patch_size", 14),
        "num_channels": 3,
        "norm_type": vision.get("norm", "layer_norm"),
        "qkv_bias": vision.get("qkv_bias", True),
        "qk_normalization": vision.get("qk_norm", False),
        "layer_norm_eps": vision.get("eps", 1e-6),
        "initializer_factor": vision.get("layer_scale", 0.1),
        "drop_path_rate": vision.get("drop_path", 0.0),
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "dropout": 0.0,
    }


def vision_rules(prefix: str) -> list[Rule]:
    """Returns the rules for the weight names of InternViT."""
    return [  # blocks first: the second rule matches them too when writing
        rename(f"{prefix}encoder.layers.{{n}}.{{rest}}", "vision.blocks.{n}.{rest}"),
        rename(f"{prefix}embeddings.{{rest}}", "vision.{rest}"),
    ]
