"""Folders of runs: a run of another recipe never writes into one that has a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import yaml

from mmcomponents.cli.recipes.merging import Tree

RECIPE = "recipe.yaml"
_SHOWN = 3


def candidates(folder: Path) -> Iterator[Path]:
    """Yields a folder, then the same with the suffixes -v1, -v2 and so on, as Lightning numbers its checkpoints."""
    yield folder
    named = folder if folder.name not in ("", "..") else folder.resolve()
    for number in count(1):
        yield named.parent / f"{named.name or 'run'}-v{number}"


def other_run(folder: Path, recipe: str) -> str:
    """Returns what a folder holds of a run of another recipe, in words; empty if it can be written.

    All processes of a run come to the same result, as the recipe is written after all of them have started.

    Args:
        folder: Folder of a run, which need not exist.
        recipe: Recipe that the run would save there, as a YAML text.
    """
    file = folder / RECIPE
    if not file.is_file():
        found = next(chain(folder.glob("*.ckpt"), folder.glob("*/*.ckpt")), None)
        return "checkpoints without a recipe" if found else ""
    try:
        saved, ours = yaml.safe_load(file.read_text(encoding="utf-8")), yaml.safe_load(recipe)
    except (OSError, ValueError, yaml.YAMLError):
        return f"a {RECIPE} that cannot be read"
    if not isinstance(saved, dict):
        return f"a {RECIPE} that is no recipe"
    for tree in (saved, ours):
        if isinstance(tree.get("trainer"), dict):
            tree["trainer"].pop("default_root_dir", None)
    keys = list(dict.fromkeys(_different(saved, ours, "")))
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"a run with another {', '.join(keys[:_SHOWN])}{more}" if keys else ""


def _different(saved: Any, ours: Any, key: str) -> Iterator[str]:
    """Yields the keys in which two trees differ; of a part of another class its own key."""
    if isinstance(saved, dict) and isinstance(ours, dict) and saved.get("class_path") == ours.get("class_path"):
        names: Tree = {**saved, **ours}
        for name in names:
            below = key if name == "init_args" else f"{key}.{name}".removeprefix(".")
            missing = object()
            yield from _different(saved.get(name, missing), ours.get(name, missing), below)
    elif saved != ours:
        yield key
