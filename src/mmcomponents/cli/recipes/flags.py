"""Command-line flags as changes to a recipe.

`--model.projector.hidden 64` is equivalent to a recipe that sets this key. Flags are merged into the tree before its
interpolations are resolved and before anything is checked, so that a reference to a key sees the value of its flag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcomponents.cli.recipes.merging import PART_KEYS, SECTIONS, DefaultClass, Tree, complete, merge
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.recipes.sections import data_flag
from mmcomponents.cli.user_error import UserError
from mmcomponents.registry import near

COMMAND_LINE = "the command line"

_KEY = re.compile(r"--[A-Za-z_]\w*(\.\w+)*\+?")
_CONSTANTS = {"null": None, "true": True, "false": False}

_DEEPEST = 50

# Flags that request output of the parser instead of setting a key.
_REQUEST = re.compile(r"(-h|--help|--print_config(=.*)?|--[\w.]+\.help(=.*)?)")


@dataclass
class Flags:
    """A command line, sorted by kind of flag.

    Attributes:
        configs: Values of `--config`, in order.
        settings: (key, value) in order; a key that ends with "+" appends to a list.
        requests: Flags for the parser, such as `--help`.
    """

    configs: list[str] = field(default_factory=list)
    settings: list[tuple[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


def sort_flags(argv: list[str]) -> Flags:
    """Sorts a command line into recipes, settings and requests.

    Raises:
        UserError: A word is not a flag, or a flag has no value.
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
            raise UserError(f"{word!r} is not a flag; settings are written --key value or --key=value")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{name} has no value")
            value = words.pop(0)
        if name in ("-c", "--config"):
            flags.configs.append(value)
        else:
            flags.settings.append((name.removeprefix("--"), value))
    return flags


def check_options(command: str, flags: Flags, options: Iterable[str]) -> None:
    """Refuses settings that are not keys of a recipe: these contain a dot, except `seed_everything` and `data`.

    Args:
        command: Name of the command, for the message.
        flags: Words that the command's own parser left over.
        options: Names of the command's own options.

    Raises:
        UserError: A setting has no dot; the message names the nearest option.
    """
    for key, _ in flags.settings:
        if "." not in key and key not in ("seed_everything", "data"):
            raise UserError(f"{command}: no option --{key}{near(key, options)}")


def apply(recipe: Recipe, settings: list[tuple[str, str]]) -> Recipe:
    """Returns the recipe with the settings of a command line, applied in order.

    Raises:
        UserError: A value is no YAML, a key is below a value that is no mapping, one is nested too deeply, a setting
            is given by two names, or one is dropped by a class that is named after it.
    """
    names: dict[str, str] = {}
    for key, text in settings:
        if key.count(".") > _DEEPEST:
            raise UserError(f"--{key[:40]}… is nested too deeply")
        append = key.endswith("+")
        path, value = key.removesuffix("+").split("."), _value(key, text)
        if path[0] == "data" and (section := _section(path, value)) is not None:
            recipe = recipe.overlay({"data": section}, COMMAND_LINE)
            _refuse_dropped("data", "data", names, recipe.tree)
            continue
        name = key.removesuffix("+").replace(".init_args", "")
        path = data_flag(path, recipe.moved)
        place = ".".join(path).replace(".init_args", "")
        first = names.setdefault(place, name)
        if first != name:
            raise UserError(f"--{first} and --{name} are the same setting; give one of them")
        tree = merge({}, recipe.tree)
        full = _set(tree, path, value, append, recipe.default_class)
        above = [".".join(full[:depth]) for depth in range(1, len(full))]
        origins = {**dict.fromkeys(above, COMMAND_LINE), **recipe.origins, ".".join(full): COMMAND_LINE}
        recipe = replace(recipe, tree=tree, origins=origins)
        if not append:
            _refuse_dropped(place.removesuffix(".class_path"), name, names, tree)
    return recipe


def _refuse_dropped(place: str, name: str, before: Mapping[str, str], tree: Tree) -> None:
    """Refuses flags whose values another class has dropped.

    Args:
        place: Path of the value of a flag.
        name: Key of the flag.
        before: Paths and keys of the flags up to it.
        tree: The tree with all of them applied.

    Raises:
        UserError: A value is not in the tree any more.
    """
    for path, key in before.items():
        if path.startswith(f"{place}.") and not _holds(tree, path.split(".")):
            raise UserError(f"--{name} after --{key} drops its value: give --{name} first")


def _holds(node: Any, path: list[str]) -> bool:
    for key in path:
        if isinstance(node, list) and node:
            node = node[-1]
        if isinstance(node, dict) and key not in node:
            node = node.get("init_args")
        if not isinstance(node, dict) or key not in node:
            return False
        node = node[key]
    return True


def given_keys(settings: list[tuple[str, str]]) -> set[str]:
    """Returns the keys whose values a command line gives, without `init_args`, and those in mappings and lists.

    What is appended to a list is left out, as its keys are also those of the other items.
    """
    found: set[str] = set()
    for key, text in settings:
        if not key.endswith("+"):
            found |= {*_given(key.replace(".init_args", ""), _value(key, text))}
    return found


def _given(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _given(key if name == "init_args" else f"{key}.{name}", item)
    else:
        yield key
    for item in value if isinstance(value, list) else ():
        yield from _given(key, item)


def _section(path: list[str], value: Any) -> Tree | None:
    """Returns the change to the whole data section that a flag stands for, or None if it sets one argument."""
    if path == ["data"]:
        return {"class_path": value} if isinstance(value, str) else value if isinstance(value, dict) else None
    return {path[1]: value} if path[1] in ("class_path", "init_args") and len(path) == 2 else None


def _value(key: str, text: str) -> Any:
    """Reads mappings, lists, null, true and false as YAML.

    Other scalars stay text, as their type depends on the argument, which only the parser has.
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return _CONSTANTS.get(text, text)
    try:
        return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except RecursionError:
        raise UserError(f"--{key} is nested too deeply") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"--{key}: {' '.join(str(error).split())}") from None


def _set(tree: Tree, path: list[str], value: Any, append: bool, default_class: DefaultClass) -> list[str]:
    """Sets a value in place; returns its full path, including the `init_args` that the user may omit."""
    node, full, owner, argument = tree, list[str](), "", ("", "")
    for depth, key in enumerate(path):
        if "class_path" in node and key not in PART_KEYS:
            owner = str(node["class_path"])
            if not isinstance(node.get("init_args"), dict):
                node["init_args"] = {}
            node = node["init_args"]
            full.append("init_args")
        full.append(key)
        if depth < len(path) - 1:
            below = str(node.get("class_path", "")) if key == "init_args" else ""
            argument = (owner, key)
            owner = key if depth == 0 and key in SECTIONS else below
            node = _open(node, key, ".".join(path[: depth + 1]))
    key, old = path[-1], node.get(path[-1])
    if append:
        more = value if isinstance(value, list) else [value]
        node[key] = [*(old if isinstance(old, list) else [] if old is None else [old]), *more]
    elif key == "class_path":
        default = default_class(*argument) if node and "class_path" not in node else None
        part = merge(complete(node, default) if default else dict(node), {key: value})
        node.clear()
        node.update(part)
    else:
        node.update(merge({key: old} if key in node else {}, {key: value}, default_class, owner))
    return full


def _open(node: Tree, key: str, shown: str) -> Tree:
    """Returns the mapping under a key. A part's name becomes a mapping; of a list, the last item is used."""
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
        raise UserError(f"--{shown} is {inner!r}, which is not a mapping")
    return inner
