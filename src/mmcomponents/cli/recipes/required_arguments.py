"""Check that a recipe gives the arguments that classes require.

The parser reports a missing argument that has a type. One without a type and a default would be None.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from mmcomponents import registry
from mmcomponents.cli.recipes.classes import class_name
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.user_error import UserError

_PART = re.compile(r"\.? ?(?:Given|Got) value: \{'class_path'.*$")
"""End of a message: the value of a whole part."""

_MISSING = re.compile(
    r"(Problem with given class_path '(?P<path>[\w.]+)': )?(?P<missing>the following arguments are required: [\w., ]+?)"
    r"( Given value: .*)?"
)
"""Message of the parser about arguments that have a type and no value."""


def check_required(
    config: Namespace | Mapping[str, Any], owners: Mapping[str, type], given: Mapping[str, Any], recipe: Recipe
) -> None:
    """Refuses classes of which a required argument without a type is not given.

    Args:
        config: Sections of a recipe, as parsed.
        owners: Name of a section -> class whose arguments it holds.
        given: The sections as written. A null that is written there is a value.
        recipe: Recipe that holds the origins of keys.

    Raises:
        UserError: The message names the key, the class and the argument.
    """
    sections = _items(config)
    for name, owner in owners.items():
        if name in sections:
            _check_arguments(sections[name], owner, _items(given).get(name), name, name, recipe)


def _check_arguments(arguments: Any, owner: type, given: Any, shown: str, key: str, recipe: Recipe) -> None:
    """Checks the arguments of a class.

    Args:
        arguments: Parsed arguments.
        owner: The class.
        given: Arguments as written.
        shown: Key of the class, for messages.
        key: Key of its arguments.
        recipe: See `check_required`.
    """
    written = _items(given)
    for name, value in _items(arguments).items():
        if value is None and name not in written and _is_required(owner, name):
            raise UserError(
                f"{shown}{recipe.place(shown)}: {class_name(owner)} needs a value for its argument {name}, which has no"
                f" default: set {key}.{name}"
            )
        _check(value, written.get(name), f"{key}.{name}", recipe)


def _check(value: Any, given: Any, shown: str, recipe: Recipe) -> None:
    items = _items(value)
    if "class_path" in items:
        try:
            found = registry.imported(str(items["class_path"]))
        except registry.PartError:  # reported elsewhere
            return
        if isinstance(found, type):
            written = _items(given)
            arguments = written.get("init_args", written)
            _check_arguments(items.get("init_args"), found, arguments, shown, f"{shown}.init_args", recipe)
    elif items:
        for name, item in items.items():
            _check(item, _items(given).get(name), f"{shown}.{name}", recipe)
    elif isinstance(value, list | tuple):
        same = isinstance(given, list | tuple) and len(given) == len(value)
        for item, text in zip(value, given if same else [None] * len(value), strict=True):
            _check(item, text, shown, recipe)


def _is_required(owner: type, name: str) -> bool:
    """Whether an argument has no type and no default, in the first of a class and its bases that has it."""
    for cls in owner.__mro__:
        try:
            parameter = inspect.signature(vars(cls)["__init__"]).parameters.get(name)
        except (KeyError, TypeError, ValueError):
            continue
        if parameter is not None:
            return parameter.default is parameter.empty and parameter.annotation is parameter.empty
    return False


def _items(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else {}


def of_argument(key: str, message: str, tree: Mapping[str, Any]) -> tuple[str, str]:
    """Returns key and message of the parser; for a wrong argument of a part, those of the argument.

    Args:
        key: Key of the part, such as `model.scheduler`.
        message: Message without the key, such as `total_steps: Expected a int`; also with the value of the whole part.
        tree: The sections as written.
    """
    name, colon, rest = _PART.sub("", message).partition(": ")
    arguments = _items(_items(_node(key, tree)).get("init_args"))
    return (f"{key}.init_args.{name}", rest) if colon and name in arguments else (key, message)


def _node(key: str, tree: Mapping[str, Any]) -> Any:
    node: Any = tree
    for name in key.split("."):
        node = _items(node).get(name)
    return node


def with_class(key: str, message: str, tree: Mapping[str, Any]) -> str:
    """Returns the message of the parser; one about missing arguments of a part with the name of its class.

    Args:
        key: Key of the part, such as `model.sampler`.
        message: Message without the key.
        tree: The sections as written.
    """
    found = _MISSING.fullmatch(message)
    node = _node(key, tree)
    named = found and (found["path"] or (node if isinstance(node, str) else _items(node).get("class_path")))
    return f"{named}: {found['missing']}" if found and named else message
