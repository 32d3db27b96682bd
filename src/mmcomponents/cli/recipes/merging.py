"""Merging of recipe trees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Tree = dict[str, Any]

DefaultClass = Callable[[str, str], str | None]
"""Called with the path of a class, or the name of a section, and an argument: returns the argument's default class."""

# A dotted path, or a short name, which begins with a capital: `ddp` and `auto` are plain values.
_CLASS_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+|[A-Z]\w*")

SECTIONS = ("model", "data", "trainer")
PART_KEYS = ("class_path", "init_args", "dict_kwargs")


def no_default(owner: str, argument: str) -> str | None:
    """`DefaultClass` of classes that are not known."""
    return None


def merge(base: Tree, delta: Tree, default_class: DefaultClass = no_default, owner: str = "") -> Tree:
    """Returns a new tree: `base` updated by `delta`.

    Mappings merge key by key. A part is a mapping with `class_path`, or just the name of its class. A different class
    replaces the complete part, the same class keeps its arguments. Anything else, including lists, is replaced.

    Args:
        base: Tree that is updated.
        delta: Changes.
        default_class: Finds the class to which arguments without a `class_path` belong.
        owner: Class path or section whose arguments the trees are; empty if they are none.
    """
    if "class_path" in delta and "class_path" in base and not same_class(base["class_path"], delta["class_path"]):
        return dict(copied(delta))
    part = str(delta.get("class_path", base.get("class_path", "")))
    merged = dict(base)
    for key, new in delta.items():
        old = merged.get(key)
        if isinstance(old, str) and _is_part(new) and "class_path" not in new:
            old = {"class_path": old}
        if isinstance(old, dict) and _names_class(new):
            if "class_path" not in old and (default := default_class(owner, key)):
                old = complete(old, default)
            if isinstance(new, str) and _is_part(old):
                new = {"class_path": new}
        if isinstance(old, dict) and isinstance(new, dict):
            is_section = not owner and not part and key in SECTIONS
            below = part if key == "init_args" else key if is_section else ""
            merged[key] = merge(old, new, default_class, below)
        else:
            merged[key] = copied(new)
    return merged


def complete(arguments: Tree, class_path: str) -> Tree:
    """Returns the part that a mapping of arguments without a class stands for."""
    others = {key: value for key, value in arguments.items() if key not in PART_KEYS}
    return {"class_path": class_path, "init_args": {**(arguments.get("init_args") or {}), **others}}


def same_class(old: Any, new: Any) -> bool:
    """Whether two names refer to the same class: a short name matches any path, and `a.X` matches `a.b.X`."""
    first, second = str(old).split("."), str(new).split(".")
    return first[-1] == second[-1] and (len(first) == 1 or len(second) == 1 or first[0] == second[0])


def keys(tree: Tree, prefix: str = "") -> Iterable[str]:
    """Yields the dotted names of all nodes."""
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


def copied(value: Any) -> Any:
    """Returns a copy of a tree."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def _names_class(value: Any) -> bool:
    return (
        "class_path" in value
        if isinstance(value, dict)
        else isinstance(value, str) and bool(_CLASS_NAME.fullmatch(value))
    )


def _is_part(node: Any) -> bool:
    return isinstance(node, dict) and ("class_path" in node or "init_args" in node)
