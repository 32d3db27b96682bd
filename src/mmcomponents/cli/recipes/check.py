"""Checks of a recipe's keys and parts before parsing.

jsonargparse rejects unknown names without a suggestion; the errors here name the nearest valid one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from mmcomponents import registry
from mmcomponents.cli.recipes.classes import argument_types
from mmcomponents.cli.recipes.recipe import Recipe, Tree
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

_PART_KEYS = ("class_path", "init_args", "dict_kwargs")

# Modules of short names of classes that fill no slot: optimizers, schedulers, callbacks and so on.
_MODULES = (
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "lightning.pytorch.strategies",
    "lightning.pytorch.profilers",
    "lightning.pytorch.plugins",
    "mmcomponents.training",
)


def resolve_parts(tree: Tree, recipe: Recipe) -> None:
    """Replaces the short name of each part under `model` by its dotted path.

    Raises:
        UserError: No package has such a part, it cannot be imported, or it is not valid for its slot.
    """
    model = tree.get("model")
    if not isinstance(model, dict):
        return
    for slot in registry.slots():
        holder, prefix = (model.get("heads"), "model.heads") if slot == "head" else (model, "model")
        if isinstance(holder, dict):
            for key in holder if slot == "head" else [slot]:
                _resolve_part(holder, key, slot, f"{prefix}.{key}", recipe)


def check_keys(tree: Tree, known: Mapping[str, Iterable[str]], owners: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuses unknown keys.

    Args:
        tree: Resolved tree, parts by dotted path.
        known: Top-level key -> keys below it; none if the key takes a plain value.
        owners: Top-level key -> class whose arguments are below it.
        recipe: Recipe that holds the origins of keys.

    Raises:
        UserError: A key is unknown; the message names the nearest one.
    """
    _refuse_unknown(tree, known, "", recipe)
    for top, below in tree.items():
        if known[top] and isinstance(below, dict):
            _refuse_unknown(below, known[top], f"{top}.", recipe)
            hints = argument_types(owners[top]) if top in owners else {}
            for key, value in below.items():
                _check_dataclass(value, hints.get(key), f"{top}.{key}", recipe)
                _check_arguments(value, f"{top}.{key}", recipe)


def check_flag_only(tree: Tree, recipe: Recipe, by_flag: Collection[str]) -> None:
    """Refuses options that a recipe file sets and that only the command line may set.

    With `data.allow_pipe` a file could run the shell command that it names as a shard, with `weights_only: false` the
    code in the checkpoint that it names.

    Args:
        tree: Resolved tree.
        recipe: Recipe that holds the origins of keys.
        by_flag: Keys that the command line sets.

    Raises:
        UserError: A recipe file sets such an option, or a section is a text, which the parser takes for a file.
    """
    for section in ("model", "data", "trainer"):
        if isinstance(tree.get(section), str):
            raise UserError(f"{section}{recipe.place(section)}: a mapping is expected; a file is named by `extends`")
    options = {
        "data.allow_pipe": ((tree.get("data") or {}).get("allow_pipe"), False),
        "weights_only": (tree.get("weights_only"), True),
    }
    for key, (value, harmless) in options.items():
        if value not in (None, harmless) and not {key, key.partition(".")[0]} & {*by_flag}:
            raise UserError(
                f"{key}{recipe.place(key)}: a recipe cannot set this; add --{key} {str(value).lower()} to the command"
            )


def complete(tree: Tree, defaults: Mapping[str, Any]) -> None:
    """Adds the class path where a recipe sets only arguments of a default class, such as `model.optimizer.lr`.

    Args:
        tree: Tree, changed in place.
        defaults: Dotted key, such as `model.optimizer.class_path` -> default class.
    """
    for key, class_path in defaults.items():
        top, _, rest = key.partition(".")
        name = rest.removesuffix(".class_path")
        value = tree.get(top, {}).get(name) if rest.count(".") == 1 and isinstance(tree.get(top), dict) else None
        if isinstance(value, dict) and "class_path" not in value:
            arguments = {k: v for k, v in value.items() if k not in _PART_KEYS}
            tree[top][name] = {"class_path": class_path, "init_args": {**value.get("init_args", {}), **arguments}}


def suggest_class(message: str) -> str:
    """Returns a suggestion for a short class name that the parser did not find."""
    wanted = message.partition("Expected a dot import path string: ")[2].partition(" ")[0]
    if not wanted:
        return ""
    modules = [importlib.import_module(module) for module in _MODULES]
    names = [name for module in modules for name in dir(module) if inspect.isclass(getattr(module, name))]
    return near(wanted, names)


def _resolve_part(holder: Tree, key: str, slot: str, shown: str, recipe: Recipe) -> None:
    part = holder.get(key)
    name = part if isinstance(part, str) else part.get("class_path") if isinstance(part, dict) else None
    if name is None:
        return
    where = recipe.place(shown)
    try:
        path = registry.resolve(slot, str(name))
        registry.load(slot, path)
    except registry.PartError as error:
        raise UserError(f"{shown}{where}: {error}") from None
    holder[key] = {**part, "class_path": path} if isinstance(part, dict) else {"class_path": path}


def _import(path: str, shown: str) -> Any:
    try:
        return registry.imported(path)
    except registry.PartError as error:
        raise UserError(f"{shown}: {error}") from None


def _check_arguments(value: Any, shown: str, recipe: Recipe) -> None:
    """Checks the arguments of each `class_path` in a value, recursively."""
    if isinstance(value, list):
        for item in value:
            _check_arguments(item, shown, recipe)
    if not isinstance(value, dict):
        return
    arguments = value
    if "class_path" in value:
        _refuse_unknown(value, _PART_KEYS, f"{shown}.", recipe)
        arguments, shown = value.get("init_args") or {}, f"{shown}.init_args"
        accepted = _parameters(_named(str(value["class_path"]), shown))
        if accepted is not None and isinstance(arguments, dict):
            _refuse_unknown(arguments, accepted, f"{shown}.", recipe)
    if isinstance(arguments, dict):
        for key, item in arguments.items():
            _check_arguments(item, f"{shown}.{key}", recipe)


def _check_dataclass(value: Any, hint: Any, shown: str, recipe: Recipe) -> None:
    """Checks the keys of a value that becomes a dataclass or a mapping of dataclasses."""
    if not isinstance(value, dict):
        return
    if is_dataclass(hint):
        _refuse_unknown(value, [f.name for f in fields(hint)], f"{shown}.", recipe)
    elif get_origin(hint) is dict:
        for key, item in value.items():
            _check_dataclass(item, get_args(hint)[1], f"{shown}.{key}", recipe)
    elif get_origin(hint) in (Union, UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) == 1:
            _check_dataclass(value, members[0], shown, recipe)


def _refuse_unknown(node: Tree, accepted: Iterable[str], prefix: str, recipe: Recipe) -> None:
    names = list(accepted)
    for key in node:
        if key not in names:
            shown = prefix + key
            raise UserError(f"unknown key {shown}{recipe.place(shown)}{near(key, names)}")


def _named(name: str, shown: str) -> Any:
    """Returns the class of a dotted path or a short name of `_MODULES`; None if only the parser can resolve it."""
    if "." in name:
        return _import(name, shown)
    modules = (importlib.import_module(module) for module in _MODULES)
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def _parameters(target: Callable[..., Any] | None) -> list[str] | None:
    """Returns the names of a class's arguments; None if it takes any keyword or has no signature."""
    if not inspect.isclass(target):
        return None
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return list(parameters)
