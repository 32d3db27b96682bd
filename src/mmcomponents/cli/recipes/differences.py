"""Differences between a recipe and the settings that a checkpoint was trained with.

A checkpoint never overrides recipe or flags, so that a difference is reported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmcomponents.cli.recipes.merging import same_class
from mmcomponents.plain_text import plain_line

_SHOWN = 8

_OF_TRAINING = ("optimizer", "scheduler", "weights", "seed")
"""Settings of the model that matter to `fit` only."""

_FILLED_IN = ("vocab_size", "image_token_id")
"""Settings that a run fills in if the recipe leaves them out."""


def report_differences(checkpoint: Path, model: Mapping[str, Any], training: bool) -> None:
    """Writes a line to standard error for each setting in which a checkpoint differs from the recipe.

    Args:
        checkpoint: File, or folder of shards. An invalid one is reported by its reader.
        model: `model:` section of the recipe, with all defaults.
        training: Whether to compare settings that only training uses.
    """
    source = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    if not source.is_file():  # reported by its reader
        return
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters") or {}
    except Exception:
        return
    left_out = {*(() if training else _OF_TRAINING), *(key for key in _FILLED_IN if model.get(key) is None)}
    saved = {key: value for key, value in saved.items() if not key.startswith("_") and key not in left_out}
    lines = differences(saved, model, "model")
    for line in lines[:_SHOWN]:
        sys.stderr.write(f"mmcomponents: the checkpoint was trained with {plain_line(line)}\n")
    if len(lines) > _SHOWN:
        sys.stderr.write(f"mmcomponents: and {len(lines) - _SHOWN} more differences\n")


def differences(saved: Any, ours: Any, key: str) -> list[str]:
    """Returns one line for each setting in which two trees differ."""
    if isinstance(saved, Mapping) and isinstance(ours, Mapping):
        # Only keys of both are compared: an option that was added later is not a difference in settings.
        return [
            line for name in saved if name in ours for line in differences(saved[name], ours[name], f"{key}.{name}")
        ]
    same = saved == ours or (isinstance(saved, tuple) and list(saved) == ours)
    if key.endswith(".class_path"):  # a checkpoint may name a class by a former path
        same = same_class(saved, ours)
    return [] if same else [f"{key} = {saved!r}; the recipe's {ours!r} is used"]
