"""Checks of a recipe's keys before parsing.

jsonargparse rejects unknown names without a suggestion; the errors here name the nearest valid one.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace

from mmcomponents import registry
from mmcomponents.cli.recipes.classes import argument_types
from mmcomponents.cli.recipes.merging import PART_KEYS, Tree
from mmcomponents.cli.recipes.merging import complete as completed
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.recipes.sections import data_flag
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

_FLAG_ONLY = "allow_pipe"

_MAPPINGS = ("model", "data", "trainer")
"""Sections of a recipe that are mappings."""

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
    refuse_unknown(tree, known, "", recipe)
    for top, below in tree.items():
        if (known[top] or top in owners) and isinstance(below, dict):
            refuse_unknown(below, known[top], f"{top}.", recipe, recipe.moved if top == "data" else {})
            hints = argument_types(owners[top]) if top in owners else {}
            for key, value in below.items():
                _check_dataclass(value, hints.get(key), f"{top}.{key}", recipe)
                _check_arguments(value, f"{top}.{key}", recipe)


def known_keys(defaults: Namespace) -> dict[str, set[str]]:
    """Returns the keys of a parser: top-level key -> keys below it, from its defaults."""
    known: dict[str, set[str]] = {}
    for key in defaults.keys():  # noqa: SIM118  (a Namespace iterates over its top level only)
        top, _, rest = key.partition(".")
        known.setdefault(top, set()).update({rest.partition(".")[0]} if rest else ())
    known.pop("config", None)
    return known


def check_flag_only(tree: Tree, recipe: Recipe, by_flag: Collection[str]) -> None:
    """Refuses options that a recipe file sets and that only the command line may set.

    With `allow_pipe`, at any depth of a section, a file could run the shell command that it names as a shard, with
    `weights_only: false` the code in the checkpoint that it names.

    Args:
        tree: Resolved tree.
        recipe: Recipe that holds the origins of keys.
        by_flag: Keys whose values the command line gives, see `flags.given_keys`.

    Raises:
        UserError: A recipe file sets such an option, or a section is no mapping; the parser takes a text for a file.
    """
    for section in _MAPPINGS:
        if not isinstance(tree.get(section), dict | None):
            named = "a class is named by `class_path`, a file" if section == "data" else "a file is named"
            raise UserError(f"{section}{recipe.place(section)}: a mapping is expected; {named} by `extends`")
    check_parsed_flag_only(tree, recipe, by_flag)


def check_parsed_flag_only(config: Namespace | Mapping[str, Any], recipe: Recipe, by_flag: Collection[str]) -> None:
    """Refuses the options of `check_flag_only` in values.

    Parsed values contain what the parser read from texts and files, which may be given for an argument of several
    values: `loading: "{allow_pipe: true}"` and `loading: load.yaml` set an option as well.

    Args:
        config: Sections of a recipe, as written or as parsed.
        recipe: Recipe that holds the origins of keys.
        by_flag: Keys whose values the command line gives.

    Raises:
        UserError: An option is set, and not by the command line.
    """
    values = _items(config)
    allowed = {".".join(data_flag(key.split("."), recipe.moved)) for key in by_flag}
    sections = {name: values.get(name) for name in _MAPPINGS}
    options = [(key, value, False) for key, value in _named_at_any_depth(sections, _FLAG_ONLY, "")]
    for key, value, harmless in [*options, ("weights_only", values.get("weights_only"), True)]:
        if value not in (None, harmless) and key not in allowed:
            raise UserError(
                f"{key}{recipe.place(key)}: a recipe cannot set this; add --{key} {str(value).lower()} to the command"
            )


def without_flag_only(node: Any) -> Any:
    """Returns a section in which no option is set that only the command line may set."""
    if isinstance(node, dict):
        return {key: False if key == _FLAG_ONLY else without_flag_only(item) for key, item in node.items()}
    return [without_flag_only(item) for item in node] if isinstance(node, list) else node


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
            tree[top][name] = completed(value, class_path)


def suggest_class(message: str) -> str:
    """Returns a suggestion for a short class name that the parser did not find."""
    wanted = message.partition("Expected a dot import path string: ")[2].partition(" ")[0]
    if not wanted:
        return ""
    modules = [importlib.import_module(module) for module in _MODULES]
    names = [name for module in modules for name in dir(module) if inspect.isclass(getattr(module, name))]
    return near(wanted, names)


def _named_at_any_depth(node: Any, name: str, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of each key of this name; a key is as in a flag, without `init_args` and places in lists."""
    for key, value in _items(node).items():
        below = prefix if key == "init_args" else f"{prefix}.{key}".removeprefix(".")
        if key == name:
            yield below, value
        yield from _named_at_any_depth(value, name, below)
    for item in node if isinstance(node, list | tuple | set | frozenset) else ():
        yield from _named_at_any_depth(item, name, prefix)


def _items(value: Any) -> Mapping[str, Any]:
    """Returns the items of a mapping, a namespace or a dataclass; of other values none."""
    if isinstance(value, Namespace):
        return vars(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return value if isinstance(value, Mapping) else {}


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
        refuse_unknown(value, PART_KEYS, f"{shown}.", recipe)
        arguments, shown = value.get("init_args") or {}, f"{shown}.init_args"
        accepted = _parameters(_named(str(value["class_path"]), shown))
        if accepted is not None and isinstance(arguments, dict):
            refuse_unknown(arguments, accepted, f"{shown}.", recipe)
    if isinstance(arguments, dict):
        for key, item in arguments.items():
            _check_arguments(item, f"{shown}.{key}", recipe)


def _check_dataclass(value: Any, hint: Any, shown: str, recipe: Recipe) -> None:
    """Checks the keys of a value that becomes a dataclass or a mapping of dataclasses."""
    if is_dataclass(hint) and not (isinstance(value, dict) or _holds_mapping(value)):
        raise UserError(f"{shown}{recipe.place(shown)} holds settings, a mapping, not {json.dumps(value)}")
    if is_dataclass(hint) and isinstance(value, dict):
        refuse_unknown(value, [f.name for f in fields(hint)], f"{shown}.", recipe)
    elif get_origin(hint) is dict and isinstance(value, dict):
        for key, item in value.items():
            _check_dataclass(item, get_args(hint)[1], f"{shown}.{key}", recipe)
    elif get_origin(hint) in (Union, UnionType) and value is not None:
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) == 1:
            _check_dataclass(value, members[0], shown, recipe)


def _holds_mapping(value: Any) -> bool:
    """Whether a value is a text with a mapping, or the name of a file, which the parser reads."""
    if not isinstance(value, str):
        return False
    try:
        return Path(value).is_file() or isinstance(yaml.safe_load(value), dict)
    except (OSError, ValueError, yaml.YAMLError):
        return False


def refuse_unknown(
    node: Tree, accepted: Iterable[str], prefix: str, recipe: Recipe, former: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuses keys of a mapping.

    Args:
        node: Mapping.
        accepted: Valid keys.
        prefix: Path of the mapping, with a dot at the end.
        recipe: Recipe that holds the origins of keys.
        former: Former names, see `registry.near`.

    Raises:
        UserError: A key is unknown; the message names the nearest one.
    """
    names = list(accepted)
    for key in node:
        if key not in names:
            shown = prefix + key
            raise UserError(f"unknown key {shown}{recipe.place(shown)}{near(key, names, former)}")


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
