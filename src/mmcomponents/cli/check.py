"""What a recipe names, checked before the parser sees it: unknown keys and unknown parts, with the near ones.

jsonargparse refuses what it does not know, and does not say what would have been right.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmcomponents import registry
from mmcomponents.cli.errors import UserError
from mmcomponents.cli.recipe import Recipe, Tree
from mmcomponents.registry import near

_PART_KEYS = ("class_path", "init_args", "dict_kwargs")

# Where short names of things that fill no slot live: optimizers, schedules, callbacks and so on.
_HOMES = (
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
    """Puts the dotted path of each part under `model` into the place of its short name.

    Raises:
        UserError: No package has such a part, it cannot be imported, or it does not belong into its slot.
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
    """Refuses keys that nobody takes.

    Args:
        tree: The resolved tree, parts by dotted path.
        known: Top-level key -> keys below it; none where the key takes a plain value.
        owners: Top-level key -> class that takes what is below it.
        recipe: Says which file a key comes from.

    Raises:
        UserError: An unknown key; the message names the near one.
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
    """Names the class where a recipe sets arguments of a default one, such as `model.optimizer.lr` alone.

    Args:
        tree: The tree, changed in place.
        defaults: Dotted key, such as `model.optimizer.class_path` -> class of the default.
    """
    for key, class_path in defaults.items():
        top, _, rest = key.partition(".")
        name = rest.removesuffix(".class_path")
        value = tree.get(top, {}).get(name) if rest.count(".") == 1 and isinstance(tree.get(top), dict) else None
        if isinstance(value, dict) and "class_path" not in value:
            arguments = {k: v for k, v in value.items() if k not in _PART_KEYS}
            tree[top][name] = {"class_path": class_path, "init_args": {**value.get("init_args", {}), **arguments}}


def suggest_class(message: str) -> str:
    """The near name of a class that the parser did not find by its short name."""
    wanted = message.partition("Expected a dot import path string: ")[2].partition(" ")[0]
    return near(wanted, _home_names()) if wanted else ""


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
        raise UserError(f"{shown}{where}: {path} is no {slot}, which would be a subclass of {base}")
    holder[key] = {**part, "class_path": path} if isinstance(part, dict) else {"class_path": path}


def _import(path: str, shown: str) -> Any:
    """What a dotted path names. Importing another package's part runs its code, so any failure is its own."""
    module, _, name = path.rpartition(".")
    try:
        home = importlib.import_module(module)
    except Exception as error:
        raise UserError(
            f"{shown}: cannot import {path}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    if not hasattr(home, name):
        raise UserError(f"{shown}: {module} has no {name}{near(name, dir(home))}")
    return getattr(home, name)


def _check_arguments(value: Any, shown: str, recipe: Recipe) -> None:
    """Checks the arguments of each `class_path` in a value, however deep."""
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
    """Checks the keys of a value that becomes a dataclass, or a mapping of them."""
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
    """The class of a dotted path or of a well-known short name; None for what the parser alone can find."""
    if "." in name:
        return _import(name, shown)
    homes = (importlib.import_module(home) for home in _HOMES)
    return next((getattr(home, name) for home in homes if hasattr(home, name)), None)


def _home_names() -> list[str]:
    homes = [importlib.import_module(home) for home in _HOMES]
    return [name for home in homes for name in dir(home) if inspect.isclass(getattr(home, name))]


def _parameters(target: Callable[..., Any] | None) -> list[str] | None:
    """Names that a class or function takes; None where it takes any or nobody can tell."""
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
    except NameError:  # imported for type checkers alone
        return {}
