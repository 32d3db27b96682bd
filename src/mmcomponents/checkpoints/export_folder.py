"""Writing of models and checkpoints to a folder in a given format."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmcomponents.checkpoints.checkpoint import FORMATS, Checkpoint, meta_model
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.weight_names import check_names
from mmcomponents.checkpoints.companions import write_companions
from mmcomponents.checkpoints.files import MAX_SHARD, write_json, write_weights
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.part_files import with_own_files
from mmcomponents.checkpoints.rules import Lazy, lazy, to_theirs
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.component import stored_tensors
from mmcomponents.model import MultimodalModel

WRITTEN = ("mmcomponents", "official", "transformers", "causal_lm")
"""Formats that can be written."""


def format_named(name: str) -> Format:
    """Returns the writable format of a name.

    Raises:
        CheckpointError: No writable format has this name.
    """
    found = next((known for known in FORMATS if known.name == name and name in WRITTEN), None)
    if found is None:
        raise CheckpointError(f"no format is called {name!r}; formats are {', '.join(WRITTEN)}")
    return found


def convert(
    checkpoint: Checkpoint,
    folder: str | Path,
    format: str,
    *,
    max_shard: int = MAX_SHARD,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes a checkpoint in another format or in its own, with at most one shard in memory.

    Args:
        checkpoint: Result of `read`.
        folder: Output folder; must not exist.
        format: Name of the format.
        max_shard: Maximum number of bytes of a weight file.
        progress: Called with the number of bytes of each written file.

    Raises:
        CheckpointError: The format cannot express the model, or the weights do not match the configuration.
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
    """Writes a model that was loaded from a checkpoint and trained further.

    Args:
        model: Has the parts of the checkpoint.
        folder: Output folder; must not exist.
        like: The checkpoint that the model was loaded from, which provides configuration and tokenizer.
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
    allow_nonfinite: bool = False,
) -> None:
    """Writes configuration, weights, tokenizer and the other files of a format, atomically.

    The files are written to a temporary folder beside the final path, which is then renamed.

    Args:
        folder: Output folder; must not exist.
        spec: Description of the model.
        weights: Weights by this library's names.
        format: Format to write.
        source: Original format and configuration of the model.
        tokenizer_folder: Folder whose tokenizer files are copied. None: there is no tokenizer.
        max_shard: Maximum number of bytes of a weight file.
        progress: Called with the number of bytes of each written file.
        allow_nonfinite: Whether to write weights with NaN or infinities.

    Raises:
        CheckpointError: The folder exists, the format cannot express the model, or weights are missing or not finite.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} already exists")
    own, files = spec, dict[str, Path]()
    if isinstance(format, Native):
        spec, files = with_own_files(spec)
    check_names("the model", stored_tensors(meta_model(own)), weights)
    known = without_code(source[1]) if source is not None and source[0] == format.name else {}
    config = format.config(spec, known)
    kinds = {str(value.meta.dtype).removeprefix("torch.") for value in weights.values()}
    if len(kinds) == 1 and not isinstance(format, Native):
        names = ("dtype", "torch_dtype")  # the second is the key of older versions
        config = _without(config, names) | dict.fromkeys(names, kinds.pop())
    if isinstance(format, Native) and source is not None and source[0] != format.name:
        config["source"] = {"format": source[0], "config": source[1]}
    state = to_theirs(weights, format.rules(config, spec))
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = staging_folder(folder)
    try:
        write_json(part / "config.json", config)
        write_companions(part, format.name, spec, tokenizer_folder)
        for target, given in files.items():
            (part / target).parent.mkdir(exist_ok=True)
            shutil.copyfile(given, part / target)
        write_weights(part, state, max_shard, progress, allow_nonfinite)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def staging_folder(folder: Path) -> Path:
    """Creates a temporary folder beside the final path, with the permissions of a new folder."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    part.chmod(folder.parent.stat().st_mode & 0o777)
    return part


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Removes references to Python files from a configuration: exported folders do not contain or need them."""
    return _without(config, ("auto_map",))


def _without(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        key: _without(value, names) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in names
    }


def weights_of(state: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Lazy]:
    """Returns the weights of a model's state dict, without the embedding weight that a tied head repeats.

    Args:
        state: Tensors of any shape, by name.
        spec: The model that the state dict belongs to.

    Raises:
        CheckpointError: A part has extra state, which a folder does not hold.
    """
    if extra := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{extra[0]} is not a tensor: a folder holds weights and buffers, no extra state")
    wanted = set(stored_tensors(meta_model(spec)))
    tied = {name for name in state if name.startswith("heads.") and name not in wanted}
    return {name: lazy(value) for name, value in state.items() if name not in tied}
