"""Reading of the model of a run from its checkpoint alone, as its settings are part of the checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmcomponents.checkpoints import Checkpoint, CheckpointError, ModelSpec, Processing
from mmcomponents.checkpoints.adapter_weights import merged_weights
from mmcomponents.checkpoints.checkpoint import meta_model
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.runs.saved_weights import frozen_weights, model_weights, saved_contents
from mmcomponents.component import stored_tensors
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError
from mmcomponents.training.adapters import inject_adapters, stored_options

log = logging.getLogger(__name__)

_SLOTS = ("vision", "fuser", "merger", "projector", "embedder", "position", "backbone")


def run_checkpoint(path: Path) -> Path | None:
    """Returns the checkpoint of a run: the path itself, or the newest one in its folder; None if there is none."""
    if path.is_file():
        return path if path.suffix == ".ckpt" else None
    if (path / ".metadata").is_file():
        return path
    found = [entry for folder in (path / "checkpoints", path) for entry in folder.glob("*.ckpt")]
    return max(found, key=lambda entry: entry.stat().st_mtime, default=None)


def read_run(
    path: Path, image_token_id: int | None = None, *, allow_nonfinite: bool = False, trust_remote_code: bool = False
) -> Checkpoint:
    """Returns the model of a run's checkpoint, with adapters merged.

    Args:
        path: A file of Lightning's, or a folder of shards.
        image_token_id: Token id of the placeholder of a visual token. None: that of the run.
        allow_nonfinite: Whether weights may be NaN or infinite.
        trust_remote_code: Whether the checkpoint may name classes that no installed package declares, which are then
            imported.

    Raises:
        CheckpointError: The checkpoint is missing or damaged, or it does not say what the model consists of.
    """
    weights, settings = model_weights(path, allow_nonfinite), _settings(path)
    parts: dict[str, Any] = {slot: settings[slot] for slot in _SLOTS if settings.get(slot)}
    parts["heads"] = dict(settings.get("heads") or {})
    placeholder = settings.get("image_token_id") if image_token_id is None else image_token_id
    processing = _processing(path)
    spec = ModelSpec(parts, settings.get("vocab_size"), placeholder, processing or Processing())
    if (foreign := spec.foreign_code()) and not trust_remote_code:
        raise CheckpointError(
            f"{path.as_posix()} names third-party code ({', '.join(foreign)}), which is imported only with"
            " trust_remote_code"
        )
    model = meta_model(spec)
    own = set(stored_tensors(model))
    inject_adapters(model, {name: stored_options(given) for name, given in (settings.get("slots") or {}).items()})
    # A tied head has no weight of its own: it exposes the embedding weight.
    weights |= frozen_weights(path, model, trust_remote_code=trust_remote_code)
    saved = merged_weights(model, weights).items()
    kept = {name: value for name, value in saved if name in own or not name.startswith("heads.")}
    return Checkpoint(path, Native(), {}, spec, kept, has_processing=processing is not None)


def processing_entry(datamodule: object) -> dict[str, Any]:
    """Returns the entry of a checkpoint that says how the run's data makes images and prompts; empty if it makes none.

    Args:
        datamodule: The run's data, of any class.
    """
    try:
        renderer = getattr(datamodule, "renderer", None)
    except DataError:  # data without a tokenizer
        return {}
    except Exception as error:  # data of another package: its fault must not cost the checkpoint
        log.warning("the checkpoint does not say how images and prompts are made: %s", error)
        return {}
    return {"processing": asdict(Processing.of(renderer))} if isinstance(renderer, SampleRenderer) else {}


def _processing(path: Path) -> Processing | None:
    saved = saved_contents(path).get("processing")
    try:
        return None if saved is None else Processing(**saved)
    except TypeError as error:
        raise CheckpointError(f"{path.as_posix()}: its processing cannot be read: {error}") from error


def _settings(path: Path) -> Mapping[str, Any]:
    """Returns the section `model:` of the recipe of a run, with all defaults."""
    saved = saved_contents(path).get("hyper_parameters") or {}
    if not any(saved.get(slot) for slot in _SLOTS):
        raise CheckpointError(
            f"{path.as_posix()} does not say what its model consists of, as it was trained without a recipe: build its"
            " task and give the checkpoint to the trainer (ckpt_path)"
        )
    found: Mapping[str, Any] = saved
    return found
