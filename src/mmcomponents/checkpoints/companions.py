"""Writing of the files beside weights and `config.json`: tokenizer, chat template, processors, generation settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcomponents.checkpoints.chat_template import chat_template
from mmcomponents.checkpoints.checkpoint import added_tokens, meta_model
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.files import read_json, write_json
from mmcomponents.checkpoints.spec import ModelSpec, Processing
from mmcomponents.data.chat.placeholders import VIDEO_PLACEHOLDER
from mmcomponents.data.chat.special_tokens import (
    END,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    PAD,
    START,
)
from mmcomponents.data.media.images import NORMALIZATIONS
from mmcomponents.model_files import TOKENIZER_FILES, ModelFileError, check_file

NAMED_TOKENS = {
    "start_image_token": IMAGE_START,
    "end_image_token": IMAGE_END,
    "context_image_token": IMAGE_CONTEXT,
    "video_token": VIDEO_PLACEHOLDER,
}
"""Attributes of the tokenizer that transformers' `InternVLProcessor` reads."""

_BICUBIC = 3


def write_companions(folder: Path, format_name: str, spec: ModelSpec, tokenizer_folder: Path | None) -> None:
    """Writes the files of a format beside weights and configuration.

    All files of the tokenizer are copied. Its end-of-text token becomes the end-of-turn token, with which chat models
    end and which configurations get wrong. Python files of a source are not copied: the result needs no remote code.

    The transformers format has named special tokens, `<video>` among them. A tokenizer without `<video>` adds it when
    loaded, with the first free id: the processor replaces it before the text is tokenised, so the embedding weight is
    not extended and may end before that id. Other formats drop a `<video>` outside the embedding weight: a tokenizer
    with more tokens than the model's vocabulary size cannot be trained with.

    Args:
        folder: Existing output folder.
        format_name: Name of the format that the folder has.
        spec: The model.
        tokenizer_folder: Folder with a tokenizer and optionally a generation configuration. None: neither is written.

    Raises:
        CheckpointError: The tokenizer lacks tokens that the format needs, or one of its files is broken.
    """
    images = bool(spec.parts.get("vision"))
    if tokenizer_folder is not None:
        _copy_tokenizer(tokenizer_folder, folder)
        ids = added_tokens(folder)
        if images and format_name == "transformers":
            _name_tokens(folder, ids)
        elif spec.vocab_size is not None and ids.get(VIDEO_PLACEHOLDER, spec.vocab_size) >= spec.vocab_size:
            _drop_token(folder, VIDEO_PLACEHOLDER)
        _end_with_turns(folder, ids)
        _write_generation(folder, tokenizer_folder, ids)
        _write_template(folder, spec.processing.system, ids, replace=format_name == "transformers")
    if images and format_name == "transformers":
        for name, config in processor_configs(spec).items():
            write_json(folder / name, config)
    if images and format_name == "official":
        write_json(folder / "preprocessor_config.json", _clip_config(spec.processing))


def processor_configs(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Returns the configuration files of transformers' processors, by file name.

    Recent versions write a single `processor_config.json` and also read three files, as older versions and servers do.
    Every setting is explicit: the classes' defaults have another normalisation and another size.
    """
    processing = spec.processing
    mean, std = NORMALIZATIONS[processing.normalization]
    shared = {
        "processor_class": "InternVLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": processing.tile_size, "width": processing.tile_size},
        "default_to_square": True,
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    image = {
        # The name that all versions support; recent ones map it to their backend.
        "image_processor_type": "GotOcr2ImageProcessorFast",
        **shared,
        "crop_to_patches": True,
        "min_patches": processing.min_tiles,
        "max_patches": processing.max_tiles,
    }
    video = {
        "video_processor_type": "InternVLVideoProcessor",
        **shared,
        "do_sample_frames": False,
        "initial_shift": True,
        "return_metadata": False,
    }
    tokens = meta_model(spec).tokens_per_tile
    return {
        "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": tokens},
        "preprocessor_config.json": image,
        "video_preprocessor_config.json": video,
    }


def _clip_config(processing: Processing) -> dict[str, Any]:
    """Returns the preprocessor configuration of the official repositories: one tile, as CLIP's extractor makes it."""
    mean, std = NORMALIZATIONS[processing.normalization]
    return {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": processing.tile_size,
        "crop_size": processing.tile_size,
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "resample": _BICUBIC,
    }


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for file in sorted({file for pattern in TOKENIZER_FILES for file in source.glob(pattern)}):
        try:
            check_file(file, source)
        except ModelFileError as error:
            raise CheckpointError(str(error)) from error
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        kept = {key: value for key, value in read_json(config).items() if key != "auto_map"}  # remote code
        if kept.get("tokenizer_class") == "TokenizersBackend":
            kept["tokenizer_class"] = "PreTrainedTokenizerFast"  # the same class under the name of older versions
        others = kept.get("extra_special_tokens")
        if isinstance(others, list):  # recent versions store unnamed tokens here, older ones under another key
            kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
        write_json(config, kept)


def _name_tokens(folder: Path, ids: Mapping[str, int]) -> None:
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return
    missing = [token for token in NAMED_TOKENS.values() if token != VIDEO_PLACEHOLDER and token not in ids]
    if missing:
        raise CheckpointError(f"the format transformers needs tokens that the tokenizer lacks: {', '.join(missing)}")
    settings = read_json(config)
    others = settings.get("extra_special_tokens") or {}
    settings["extra_special_tokens"] = {**others, **NAMED_TOKENS}
    settings["processor_class"] = "InternVLProcessor"
    write_json(config, settings)


def _drop_token(folder: Path, token: str) -> None:
    """Removes an added token from all files of a tokenizer."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).is_file():
            settings = read_json(folder / name)
            kept = {key: value if key == "model" else _without(value, token) for key, value in settings.items()}
            kept = {key: value for key, value in kept.items() if not _names(key, value, token)}
            if kept != settings:
                write_json(folder / name, kept)


def _without(tree: Any, token: str) -> Any:
    if isinstance(tree, dict):
        return {key: _without(value, token) for key, value in tree.items() if not _names(key, value, token)}
    if isinstance(tree, list):
        return [_without(value, token) for value in tree if not _names("", value, token)]
    return tree


def _names(key: str, value: Any, token: str) -> bool:
    return token in (key, value) or (isinstance(value, dict) and value.get("content") == token)


def _end_with_turns(folder: Path, ids: Mapping[str, int]) -> None:
    """Sets the end-of-text token to the end-of-turn token, and the padding token if there is none."""
    if END not in ids:
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            settings = read_json(folder / name)
            settings["eos_token"] = END
            if PAD in ids and not settings.get("pad_token"):
                settings["pad_token"] = PAD
            write_json(folder / name, settings)


def _write_generation(folder: Path, source: Path, ids: Mapping[str, int]) -> None:
    """Writes the generation settings of the source with the actual end-of-turn and padding tokens."""
    file = "generation_config.json"
    settings = read_json(source / file) if (source / file).exists() else {}
    # Marks settings derived from the model's configuration: transformers would derive them again, with the wrong end.
    settings.pop("_from_model_config", None)
    ends = settings.get("eos_token_id")
    if END in ids:
        others = ends if isinstance(ends, list) else []
        settings["eos_token_id"] = others if ids[END] in others else [ids[END], *others] if others else ids[END]
    if PAD in ids:
        settings["pad_token_id"] = ids[PAD]
    if settings:
        write_json(folder / file, settings)


def _write_template(folder: Path, system: str | None, ids: Mapping[str, int], replace: bool) -> None:
    config = folder / "tokenizer_config.json"
    settings = read_json(config) if config.is_file() else {}
    others = [folder / "chat_template.jinja", folder / "chat_template.json"]
    if START not in ids or END not in ids:
        return
    if not replace and ("chat_template" in settings or any(file.is_file() for file in others)):
        return
    if "chat_template" in settings:
        del settings["chat_template"]
        write_json(config, settings)
    for file in others:
        file.unlink(missing_ok=True)
    others[0].write_text(chat_template(system), encoding="utf-8")
