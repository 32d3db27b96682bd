"""Check of the classes that a recipe names, before any of them is called.

The parser alone also calls functions that a recipe names as a class, and instantiates any class for an argument without
a type. Here a value with a `class_path` must be a class that the type of its argument mentions, at any depth, and no
value is a function.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from os import PathLike
from types import FunctionType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from jsonargparse import Namespace

from mmcomponents import registry
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.user_error import UserError

_PLAIN = ("builtins", "typing", "collections", "collections.abc")
"""Modules whose types take plain values."""

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def check_classes(sections: Mapping[str, Any], owners: Mapping[str, type], recipe: Recipe) -> None:
    """Refuses classes that the types of their arguments do not allow, and functions.

    Args:
        sections: Sections of a recipe, as written or as parsed.
        owners: Name of a section -> class whose arguments it holds.
        recipe: Recipe that holds the origins of keys.

    Raises:
        UserError: The message names the key, its file and the class that is expected.
    """
    for name, owner in owners.items():
        if name in sections:
            _check_arguments(sections[name], owner, name, recipe)


def argument_types(owner: type) -> dict[str, Any]:
    """Returns the types of a class's arguments, those of its bases included; without those that cannot be resolved."""
    found: dict[str, Any] = {}
    for cls in reversed(owner.__mro__):
        init = inspect.unwrap(vars(cls).get("__init__", object.__init__))
        for name, annotation in getattr(init, "__annotations__", {}).items():
            found.pop(name, None)
            try:
                found |= _evaluated(name, annotation, init)
            except (NameError, TypeError, SyntaxError, AttributeError):  # such as a type for type checkers only
                continue
    return found


def _check_arguments(arguments: Any, owner: type, shown: str, recipe: Recipe) -> None:
    values = _mapping(arguments)
    if values is None:
        return
    types = argument_types(owner)
    try:
        signature: Mapping[str, inspect.Parameter] = inspect.signature(owner).parameters
    except (TypeError, ValueError):
        signature = {}
    for name, value in values.items():
        if name not in signature or not _is_default(value, signature[name].default):
            _check(value, types.get(name, Any), f"{shown}.{name}", recipe)


def _is_default(value: Any, default: Any) -> bool:
    """Whether a value is the default of its argument. The parser writes a default that is a function as its path."""
    if isinstance(value, str) and callable(default):
        with suppress(registry.PartError):
            return registry.imported(value) is default
    return value is default


def _check(value: Any, hint: Any, shown: str, recipe: Recipe) -> None:
    members = list(mentioned(hint))
    classes = tuple(c for c in members if isinstance(c, type) and c.__module__ not in _PLAIN)
    values = _mapping(value)
    if values is not None and "class_path" in values:
        path = str(values["class_path"])
        if "." in path:  # only the parser can resolve a short name
            found = _allowed(_imported(path, shown, recipe), path, classes, shown, recipe)
            _check_arguments(values.get("init_args"), found, f"{shown}.init_args", recipe)
            _check(values.get("dict_kwargs"), Any, f"{shown}.dict_kwargs", recipe)
    elif values is not None:
        options = next((c for c in classes if is_dataclass(c) and {*values} <= {f.name for f in fields(c)}), None)
        if options is not None:
            _check_arguments(value, options, shown, recipe)
        elif not classes or any(_is_mapping(c) for c in members):
            for key, item in values.items():
                _check(item, hint, f"{shown}.{key}", recipe)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _check(item, hint, shown, recipe)
    elif isinstance(value, str):
        if str not in members and (classes or Callable in members) and _DOTTED.fullmatch(value):
            with suppress(registry.PartError):  # the parser reports it
                found = registry.imported(value)
                if classes:
                    _allowed(found, value, classes, shown, recipe)
                else:
                    _refuse_function(found, value, shown, recipe)
    else:
        _refuse_function(value, class_name(value), shown, recipe)


def _refuse_function(value: Any, name: str, shown: str, recipe: Recipe) -> None:
    if callable(value) and not isinstance(value, type | PathLike):
        raise UserError(f"{shown}{recipe.place(shown)}: {name} is a function; a recipe names classes only")


def _allowed(found: Any, path: str, classes: tuple[type, ...], shown: str, recipe: Recipe) -> type:
    if not classes:
        raise UserError(f"{shown}{recipe.place(shown)}: {path} is not allowed here: the argument takes no class")
    if not isinstance(found, type) or not any(_derives(found, base) for base in classes):
        expected = " or ".join(dict.fromkeys(map(class_name, classes)))
        raise UserError(f"{shown}{recipe.place(shown)}: {path} is not a subclass of {expected}")
    return found


def _imported(path: str, shown: str, recipe: Recipe) -> Any:
    try:
        return registry.imported(path)
    except registry.PartError as error:
        outer, _, name = path.rpartition(".")
        with suppress(registry.PartError, AttributeError):  # a class inside a class
            return getattr(registry.imported(outer), name)
        raise UserError(f"{shown}{recipe.place(shown)}: {error}") from None


def _derives(found: type, base: type) -> bool:
    try:
        return issubclass(found, base)
    except TypeError:  # a protocol, whose methods the parser compares
        return bool(getattr(base, "_is_protocol", False))


def mentioned(hint: Any) -> Iterator[Any]:
    """Yields the types that a value may have: members of unions and containers, and what a factory returns."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        yield hint
    elif origin is Annotated:
        yield from mentioned(arguments[0])
    elif origin is Callable:
        yield origin
        yield from mentioned(arguments[-1]) if arguments else ()
    elif origin not in (type, Literal):
        if origin not in (Union, UnionType):
            yield origin
        for argument in arguments:
            yield from mentioned(argument)


def _is_mapping(kind: Any) -> bool:
    return kind is Any or is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, Mapping))


def _mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else None


def _evaluated(name: str, annotation: Any, init: Any) -> dict[str, Any]:
    """Evaluates one annotation: `get_type_hints` of the whole signature fails at the first unknown name."""
    alone = FunctionType((lambda: None).__code__, getattr(init, "__globals__", {}))
    alone.__annotations__ = {name: annotation}
    return get_type_hints(alone)


def class_name(value: Any) -> str:
    """Returns the shortest dotted path of an object."""
    module, name = str(getattr(value, "__module__", "")), getattr(value, "__qualname__", repr(value))
    packages = [module[: match.start()] for match in re.finditer(r"\.|$", module)]
    found = (package for package in packages if getattr(sys.modules.get(package), name, None) is value)
    return f"{next(found, module)}.{name}"
