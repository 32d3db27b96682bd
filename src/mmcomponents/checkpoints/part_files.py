"""Files that parts read, such as a shared vocabulary: copied into a folder by an export, and found there again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcomponents import model_files
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.compose import class_of

SUBFOLDER = "parts"


def with_own_files(spec: ModelSpec) -> tuple[ModelSpec, dict[str, Path]]:
    """Returns a spec in which the files of parts and record kinds (`files`) are relative paths, and what to copy there.

    A part with files names these arguments under `files`, so that a reader knows them without importing the class.

    Raises:
        CheckpointError: A file does not exist.
    """
    copies: dict[str, Path] = {}

    def rewrite(part: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(part.get("init_args") or {})
        names = [name for name in getattr(class_of(part), "files", ()) if arguments.get(name) is not None]
        for name in names:
            source = Path(arguments[name])
            if not source.is_file():
                raise CheckpointError(f"{part['class_path']} reads {name}: {source}, which is not a file")
            target = f"{SUBFOLDER}/{len(copies)}-{source.name}"
            copies[target] = source
            arguments[name] = target
        return {**part, "init_args": arguments} | ({"files": names} if names else {})

    return _rewritten(spec, rewrite), copies


def found_in(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Returns a spec in which the files of parts are paths in a folder.

    Raises:
        CheckpointError: A path leaves the folder, or there is no such file.
    """

    def rewrite(part: Mapping[str, Any]) -> dict[str, Any]:
        arguments = dict(part.get("init_args") or {})
        for name in part.get("files") or ():
            path = folder / str(arguments.get(name))
            try:
                model_files.check_file(path, folder)
            except (OSError, model_files.ModelFileError) as error:
                raise CheckpointError(f"{part['class_path']} reads {name}: {error}") from error
            arguments[name] = str(path)
        return {key: value for key, value in part.items() if key != "files"} | {"init_args": arguments}

    return _rewritten(spec, rewrite)


def _rewritten(spec: ModelSpec, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> ModelSpec:
    names = ("parts", "sampler", "kinds")
    return replace(spec, **{name: _mapped(getattr(spec, name), change) for name in names})


def _mapped(value: Any, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """Applies a function to each mapping with a `class_path` in a value, inner ones first."""
    if isinstance(value, Mapping):
        found = {key: _mapped(inner, change) for key, inner in value.items()}
        return change(found) if "class_path" in found else found
    return [_mapped(inner, change) for inner in value] if isinstance(value, list | tuple) else value
