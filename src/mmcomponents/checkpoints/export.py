"""From a model, or from another folder, to a folder in some format."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcomponents.checkpoints.checkpoint import FORMATS, Checkpoint, check_names, meta_model
from mmcomponents.checkpoints.companions import write_companions
from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.files import MAX_SHARD, write_json, write_weights
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.rules import Lazy, lazy, to_theirs
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.model import MultimodalModel

WRITTEN = ("mmcomponents", "official", "transformers", "causal_lm")
"""Formats that can be written."""


def format_named(name: str) -> Format:
    """A format that can be written.

    Raises:
        CheckpointError: There is none of this name.
    """
    found = next((known for known in FORMATS if known.name == name and name in WRITTEN), None)
    if found is None:
        raise CheckpointError(f"no format is called {name!r}; there are {', '.join(WRITTEN)}")
    return found


def convert(
    checkpoint: Checkpoint,
    folder: str | Path,
    format: str,
    *,
    max_shard: int = MAX_SHARD,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a checkpoint in another format, or in its own, without ever holding more than one shard.

    Args:
        checkpoint: What `read` gave.
        folder: Where to; must not exist.
        format: Name of the format.
        max_shard: Bytes at most in a file of weights.
        progress: Called with the bytes of each file that has been written.

    Raises:
        CheckpointError: The format cannot express the model, or the weights are not those of the configuration.
    """
    write(
        Path(folder),
        checkpoint.spec,
        checkpoint.weights,
        format_named(format),
        source=checkpoint.source,
        tokenizer_folder=checkpoint.folder,
        max_shard=max_shard,
        progress=progress,
    )


def save(model: MultimodalModel, folder: str | Path, like: Checkpoint, format: str = "mmcomponents") -> None:
    """Writes a model whose weights were trained further.

    Args:
        model: Has the parts of the checkpoint that it was loaded from.
        folder: Where to; must not exist.
        like: That checkpoint: configuration and tokenizer are taken from it.
        format: Name of the format.

    Raises:
        CheckpointError: The model has other parts, or the format cannot express it.
    """
    write(
        Path(folder),
        like.spec,
        weights_of(model.state_dict(), like.spec),
        format_named(format),
        source=like.source,
        tokenizer_folder=like.folder,
    )


def write(
    folder: Path,
    spec: ModelSpec,
    weights: Mapping[str, Lazy],
    format: Format,
    *,
    source: tuple[str, dict[str, Any]] | None = None,
    tokenizer_folder: Path | None = None,
    max_shard: int = MAX_SHARD,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes configuration, weights, tokenizer and what else the format has. All or nothing: a folder beside it first.

    Args:
        folder: Where to; must not exist.
        spec: What the model is made of.
        weights: By our names.
        format: How to store it.
        source: Name of a format and the configuration that the model was first read from.
        tokenizer_folder: Holds the tokenizer.
        max_shard: Bytes at most in a file of weights.
        progress: Called with the bytes of each file that has been written.

    Raises:
        CheckpointError: The folder exists, the format cannot express the model, or weights are missing.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} is there already")
    wanted = {name: p.shape for name, p in meta_model(spec).named_parameters()}
    check_names("the model", wanted, dict(weights))
    known = without_code(source[1]) if source is not None and source[0] == format.name else {}
    config = format.config(spec, known)
    kinds = {str(value.meta.dtype).removeprefix("torch.") for value in weights.values()}
    if len(kinds) == 1 and not isinstance(format, Native):
        names = ("dtype", "torch_dtype")  # the second is the name for older versions
        config = _without(config, names) | dict.fromkeys(names, kinds.pop())
    if isinstance(format, Native) and source is not None and source[0] != format.name:
        config["source"] = {"format": source[0], "config": source[1]}
    state = to_theirs(weights, format.rules(config, spec))
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = staging_folder(folder)
    try:
        write_json(part / "config.json", config)
        write_companions(part, format.name, spec, tokenizer_folder)
        write_weights(part, state, max_shard, progress)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def staging_folder(folder: Path) -> Path:
    """A new folder beside another one, to be filled and then renamed; with the rights that a new folder has."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    part.chmod(folder.parent.stat().st_mode & 0o777)
    return part


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that points to no Python files: none are copied, and what is written needs none."""
    return _without(config, ("auto_map",))


def _without(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        key: _without(value, names) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in names
    }


def weights_of(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Lazy]:
    """Weights of a model's state; what a tied head shows of the word table is left out."""
    wanted = {name for name, _ in meta_model(spec).named_parameters()}
    tied = {name for name in state if name.startswith("heads.") and name not in wanted}
    return {name: lazy(value) for name, value in state.items() if name not in tied}
