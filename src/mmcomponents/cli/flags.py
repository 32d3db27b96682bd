"""Flags as changes of a recipe.

`--model.projector.hidden 64` is the same as a recipe that sets this key, so flags are merged into the tree before its
interpolations are resolved and before anything is checked: a flag swaps a part, and what refers to its key follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from mmcomponents.cli.errors import UserError
from mmcomponents.cli.recipe import Recipe, Tree, merge

COMMAND_LINE = "the command line"

_KEY = re.compile(r"--[A-Za-z_]\w*(\.\w+)*\+?")
# Flags that ask the parser for something instead of setting a key.
_REQUEST = re.compile(r"(-h|--help|--print_config(=.*)?|--[\w.]+\.help(=.*)?)")


@dataclass
class Flags:
    """A command line, sorted.

    Attributes:
        configs: Values of `--config`, in order.
        settings: (key, value) in order; the key ends with "+" where a list is to grow.
        requests: Flags for the parser, such as `--help`.
    """

    configs: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def sort_flags(argv: list[str]) -> Flags:
    """Sorts a command line into recipes, settings and requests.

    Raises:
        UserError: A word that is no flag, or a flag without its value.
    """
    flags = Flags()
    words = list(argv)
    while words:
        word = words.pop(0)
        if _REQUEST.fullmatch(word):
            flags.requests.append(word)
            if word.endswith(".help") and words and not words[0].startswith("-"):
                flags.requests[-1] += f"={words.pop(0)}"
            continue
        name, equals, value = word.partition("=")
        if name != "-c" and not _KEY.fullmatch(name):
            raise UserError(f"{word!r} is no flag; settings are written --key value or --key=value")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{name} has no value")
            value = words.pop(0)
        if name in ("-c", "--config"):
            flags.configs.append(value)
        else:
            flags.settings.append((name.removeprefix("--"), value))
    return flags


def apply(recipe: Recipe, settings: list[tuple[str, str]]) -> Recipe:
    """The recipe with the settings of a command line, one after the other."""
    for key, text in settings:
        append = key.endswith("+")
        path = key.removesuffix("+").split(".")
        tree = merge({}, recipe.tree)
        place = _set(tree, path, _value(key, text), append)
        above = [".".join(place[:depth]) for depth in range(1, len(place))]
        origins = {**dict.fromkeys(above, COMMAND_LINE), **recipe.origins, ".".join(place): COMMAND_LINE}
        recipe = Recipe(tree, origins)
    return recipe


def _value(key: str, text: str) -> Any:
    """Mappings, lists, null, true and false are read as YAML.

    Other scalars stay text: only the parser knows which type they are for.
    """
    if text.lstrip()[:1] not in ("[", "{") and text not in ("null", "true", "false"):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--{key}: {' '.join(str(error).split())}") from None


def _set(tree: Tree, path: list[str], value: Any, append: bool) -> list[str]:
    """Sets a value in place; returns its full path, with the `init_args` that the user may leave out."""
    node, place = tree, []
    for depth, key in enumerate(path):
        if "class_path" in node and key not in ("class_path", "init_args", "dict_kwargs"):
            if not isinstance(node.get("init_args"), dict):
                node["init_args"] = {}
            node = node["init_args"]
            place.append("init_args")
        place.append(key)
        if depth < len(path) - 1:
            node = _open(node, key, ".".join(path[: depth + 1]))
    key, old = path[-1], node.get(path[-1])
    if append:
        more = value if isinstance(value, list) else [value]
        node[key] = [*(old if isinstance(old, list) else [] if old is None else [old]), *more]
    else:
        node.update(merge({key: old} if key in node else {}, {key: value}))
    return place


def _open(node: Tree, key: str, shown: str) -> Tree:
    """The mapping under a key. A bare part name becomes a mapping, and a list stands for its last item."""
    inner = node.get(key)
    if isinstance(inner, list) and inner:
        if isinstance(inner[-1], str):
            inner[-1] = {"class_path": inner[-1]}
        inner = inner[-1]
    elif isinstance(inner, str) and inner.split(".")[-1].isidentifier():
        inner = node[key] = {"class_path": inner}
    elif inner is None:
        inner = node[key] = {}
    if not isinstance(inner, dict):
        raise UserError(f"--{shown} holds {inner!r}, which has no keys of its own")
    return inner
