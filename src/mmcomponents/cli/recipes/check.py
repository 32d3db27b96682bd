"""Checks of a recipe's keys and parts before parsing.

jsonargparse rejects unknown names without a suggestion; the errors here name the nearest valid one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmcomponents import registry
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
    for slot, base in registry.slots().items():
        holder, prefix = (model.get("heads"), "model.heads") if slot == "head" else (model, "model")
        if isinstance(holder, dict):
            for key in holder if slot == "head" else [slot]:
                _resolve_part(holder, key, slot, base, f"{prefix}.{key}", recipe)


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
            hints = _hints(owners[top]) if top in owners else {}
            for key, value in below.items():
                _check_dataclass(value, hints.get(key), f"{top}.{key}", recipe)
                _check_arguments(value, f"{top}.{key}", recipe)


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


def _resolve_part(holder: Tree, key: str, slot: str, base: str, shown: str, recipe: Recipe) -> None:
    part = holder.get(key)
    name = part if isinstance(part, str) else part.get("class_path") if isinstance(part, dict) else None
    if name is None:
        return
    where = _place(shown, recipe)
    try:
        path = registry.resolve(slot, str(name))
    except registry.PartError as error:
        raise UserError(f"{shown}{where}: {error}") from None
    found, expected = _import(path, f"{shown}{where}"), _import(base, f"slot {slot}")
    if inspect.isclass(found) and not issubclass(found, expected):
        raise UserError(f"{shown}{where}: {path} is not a {slot}, a subclass of {base}")
    holder[key] = {**part, "class_path": path} if isinstance(part, dict) else {"class_path": path}


def _import(path: str, shown: str) -> Any:
    """Returns the object at a dotted path. Importing a third-party part runs its code, so any exception is caught."""
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{shown}: cannot import {path}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    if not hasattr(module, name):
        raise UserError(f"{shown}: {module_name} has no {name}{near(name, dir(module))}")
    return getattr(module, name)


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
            raise UserError(f"unknown key {shown}{_place(shown, recipe)}{near(key, names)}")


def _place(key: str, recipe: Recipe) -> str:
    origin = recipe.origin(key)
    return f" ({origin})" if origin else ""


def _named(name: str, shown: str) -> Any:
    """Returns the class of a dotted path or a short name of `_MODULES`; None if only the parser can resolve it."""
    if "." in name:
        return _import(name, shown)
    modules = (importlib.import_module(module) for module in _MODULES)
    return next((getattr(module, name) for module in modules if hasattr(module, name)), None)


def _parameters(target: Callable[..., Any] | None) -> list[str] | None:
    """Returns the names of a callable's arguments; None if it takes any keyword or has no signature."""
    if target is None:
        return None
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return list(parameters)


def _hints(owner: Any) -> dict[str, Any]:
    try:
        return get_type_hints(owner.__init__)
    except NameError:  # a type that is imported for type checkers only
        return {}
