"""Folders of runs: a new run never writes over the checkpoints of an earlier one, nor beside another recipe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from mmcomponents.cli.recipes.merging import Tree

RECIPE = "recipe.yaml"
_SHOWN = 3


def candidates(folder: Path) -> Iterator[Path]:
    """Yields a folder, then the same with the suffixes -v1, -v2 and so on, as Lightning numbers its checkpoints."""
    yield folder
    named = folder if folder.name not in ("", "..") else folder.resolve()
    for number in count(1):
        yield named.parent / f"{named.name or 'run'}-v{number}"


def earlier_run(folder: Path, recipe: str) -> str:
    """Returns what a folder holds of an earlier run, in words; empty if a new one can write there.

    A run of the same recipe that has written no checkpoint is written over.

    All processes of a run come to the same result, as the recipe is written after all of them have started.

    Args:
        folder: Folder of a run, which need not exist.
        recipe: Recipe that the run would save there, as a YAML text.
    """
    file = folder / RECIPE
    # With those that a killed run left half written: rank zero finishes them before other ranks come here.
    kept = [*folder.glob("*.ckpt*"), *folder.glob("*/*.ckpt*")]
    if not file.is_file():
        return "checkpoints without a recipe" if kept else ""
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
    if keys:
        return f"a run with another {', '.join(keys[:_SHOWN])}{more}"
    if is_requeued(folder):
        return ""
    whole = sorted((path for path in kept if path.suffix == ".ckpt"), key=lambda path: path.name != "last.ckpt")
    goes_on = f" (--ckpt_path {whole[0].as_posix()} goes on from there)" if whole else ""
    return f"checkpoints of this recipe{goes_on}" if kept else ""


def is_requeued(folder: Path) -> bool:
    """Whether a job of SLURM goes on from the checkpoint that Lightning has saved there when it was requeued."""
    return SLURMEnvironment.detect() and next(folder.glob("hpc_ckpt_*.ckpt"), None) is not None


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
