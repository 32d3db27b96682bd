"""Rewriting of the references in a recipe's interpolations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_START = re.compile(r"(?<!\\)(\$\{\s*)([^\s${},:]+)")


def absolute(value: Any, path: Sequence[str]) -> Any:
    """Returns a tree in which relative references (`${.name}`) are absolute.

    Args:
        value: Tree.
        path: Keys from the root of the recipe to `value`.
    """
    if isinstance(value, dict):
        return {key: absolute(item, [*path, key]) for key, item in value.items()}
    if isinstance(value, list):
        return [absolute(item, [*path, str(place)]) for place, item in enumerate(value)]
    return _renamed(value, lambda name: _absolute(name, path[:-1])) if isinstance(value, str) else value


def plain_data(value: Any, moved: Mapping[str, str]) -> Any:
    """Returns a tree whose references to the data section are those of its plain form.

    Args:
        value: Tree.
        moved: Former name of a setting of the data -> its path.
    """
    if isinstance(value, dict):
        return {key: plain_data(item, moved) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_data(item, moved) for item in value]
    return _renamed(value, lambda name: _of_data(name, moved)) if isinstance(value, str) else value


def _renamed(text: str, change: Callable[[str], str]) -> str:
    """Returns a text with changed names of references; names of resolvers, before a colon, stay."""

    def new(match: re.Match[str]) -> str:
        is_resolver = match.string[match.end() :].lstrip()[:1] == ":"
        return match.group() if is_resolver else match.group(1) + change(match.group(2))

    return _START.sub(new, text) if "${" in text else text


def _absolute(name: str, container: Sequence[str]) -> str:
    rest = name.lstrip(".")
    above = len(name) - len(rest) - 1
    if above < 0 or above > len(container):
        return name
    return ".".join([*container[: len(container) - above], *([rest] if rest else [])])


def _of_data(name: str, moved: Mapping[str, str]) -> str:
    top, *below = name.replace("[", ".").replace("]", "").split(".")
    if top != "data" or not below:
        return name
    if below[0] == "init_args":
        below = below[1:]
    elif below[0] not in moved:
        return name
    if below and below[0] in moved:
        below = [moved[below[0]], *below[1:]]
    return ".".join([top, *below])
