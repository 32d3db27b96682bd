"""Sections of a recipe: the class whose arguments each holds, and the plain form of the data section.

The data section is merged and checked in a plain form, the arguments of one class; the path of a class that a recipe or
a flag names is kept apart:

    data: {class_path: my_package.MyData, init_args: {width: 3}}    ──►    my_package.MyData, {width: 3}
    data: my_package.MyData                                         ──►    my_package.MyData, {}

Settings that have moved are in it under their present paths.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mmcomponents import registry
from mmcomponents.cli.recipes.merging import PART_KEYS, Tree, same_class
from mmcomponents.cli.recipes.reference_paths import absolute
from mmcomponents.cli.user_error import UserError
from mmcomponents.moved import FORMER_SETTINGS, current_path

DATA = "mmcomponents.data.PackedDataModule"
"""Class of a data section that names none."""

DATA_BASE = "mmcomponents.data.DataModule"
"""Base of the classes that a data section may name."""


_CLASS = re.compile(r"[A-Za-z_]\w*(\.\w+)*(?<!\.yaml)(?<!\.yml)(?<!\.json)")
"""A data section that is only the name of its class. The name of a file is no class."""


@dataclass(frozen=True)
class Sections:
    """What is known of a recipe's sections before it is read.

    Attributes:
        owners: Section -> class whose arguments it holds; a missing one is not known.
        moved: Former name of a setting of the default data class -> its path, such as `packing.tokens`; None: those of
            `PackedDataModule`.
    """

    owners: Mapping[str, type | None] = field(default_factory=dict)
    moved: Mapping[str, str] | None = None

    @property
    def data_path(self) -> str:
        """Path of the class of a data section that names none."""
        owner = self.owners.get("data")
        return DATA if owner is None else f"{owner.__module__}.{owner.__qualname__}"

    def default_class(self, owner: str, argument: str) -> str | None:
        """Returns the class that an argument has by default, see `merging.DefaultClass`."""
        found = self.owners.get(owner) or (_imported(owner) if "." in owner or owner[:1].isupper() else None)
        return None if found is None else _default_class(found, argument)

    def moved_settings(self, data_class: str | None) -> Mapping[str, str]:
        """Returns the moved settings of a data class, without those that are names of its arguments.

        Args:
            data_class: Path that the recipe names; None: the default class.
        """
        default = self.owners.get("data")
        is_default = data_class is None or same_class(self.data_path, data_class)
        if is_default and default is None:
            return self._moved()
        owner = default if is_default else _imported(str(data_class))
        base = _imported(DATA) if self.moved is None else default
        if owner is None or base is None or not issubclass(owner, base):
            return {}
        arguments = inspect.signature(owner).parameters
        return {former: present for former, present in self._moved().items() if former not in arguments}

    def _moved(self) -> Mapping[str, str]:
        return FORMER_SETTINGS if self.moved is None else self.moved

    def data_class(self, name: str, place: str) -> type:
        """Returns the class that a data section names.

        Args:
            name: Dotted path, or the name of the default class.
            place: Origin of the name in parentheses, for messages.

        Raises:
            UserError: It cannot be imported, or is no datamodule.
        """
        default = self.owners.get("data")
        if default is not None and name == default.__name__:
            return default
        path = current_path(DATA if name == DATA.rpartition(".")[2] else name)
        if "." not in path:
            raise UserError(f"data.class_path{place}: {name!r} is no dotted path, such as my_package.{name}")
        try:
            found, base = registry.imported(path), registry.imported(DATA_BASE)
        except registry.PartError as error:
            raise UserError(f"data.class_path{place}: {error}") from None
        if default is not None and found is default:
            return default
        if not (isinstance(found, type) and issubclass(found, base)) or found is base:
            raise UserError(f"data.class_path{place}: {path} is not a subclass of {DATA_BASE}")
        if missing := registry.missing_methods(found):
            raise UserError(f"data.class_path{place}: {path} is abstract: it does not define {missing}")
        return found

    def plain(self, delta: Tree, origin: str) -> tuple[str | None, Tree]:
        """Returns the data class that a tree names, or None, and the tree with its data section in the plain form.

        Args:
            delta: One file, or a value of the command line.
            origin: Name of the file, for messages.

        Raises:
            UserError: The section is not valid.
        """
        section = delta.get("data")
        if isinstance(section, str) and _CLASS.fullmatch(section):
            return section, {**delta, "data": {}}
        if not isinstance(section, dict):
            return None, delta
        named: str | None = None
        section = absolute(section, ["data"])
        if {"class_path", "init_args"} & {*section}:
            for key in section:
                if key not in PART_KEYS[:2]:
                    raise UserError(
                        f"unknown key data.{key} ({origin}); beside class_path, arguments are in init_args:"
                        f" data.init_args.{key}"
                    )
            named, arguments = section.get("class_path"), section.get("init_args")
            if named is not None and (not isinstance(named, str) or "${" in named):
                raise UserError(f"data.class_path ({origin}): the dotted path of a class is expected, got {named!r}")
            if not isinstance(arguments, dict | None):
                raise UserError(f"data.init_args ({origin}): a mapping is expected, got {arguments!r}")
            section = arguments or {}
        return named, {**delta, "data": section}

    def with_moved(self, delta: Tree, moved: Mapping[str, str], origin: str) -> Tree:
        """Returns a tree whose data section has its moved settings under their present paths.

        Raises:
            UserError: A setting is given by both names, or its present path is below a value that is no mapping.
        """
        section = delta.get("data")
        if not isinstance(section, dict) or not {*moved} & {*section}:
            return delta
        kept: Tree = {key: value for key, value in section.items() if key not in moved}
        for former in section:
            if former in moved:
                _put(kept, moved[former].split("."), section[former], f"data.{former}", origin)
        return {**delta, "data": kept}


def data_flag(path: list[str], moved: Mapping[str, str]) -> list[str]:
    """Returns the path of a flag, if it is one of the data section the plain and present path.

    Args:
        path: Keys of the flag.
        moved: Former name of a setting -> its path.
    """
    if path[0] != "data":
        return path
    below = path[2:] if path[1:2] == ["init_args"] and len(path) > 2 else path[1:]
    return ["data", *(moved[below[0]].split(".") if below and below[0] in moved else below[:1]), *below[1:]]


def _put(section: Tree, path: list[str], value: Any, former: str, origin: str) -> None:
    """Sets a value in place; mappings on the way are copied."""
    node, shown = section, "data"
    for key in path[:-1]:
        shown = f"{shown}.{key}"
        inner = node.get(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"{former} and {shown} ({origin}): the first is part of the second; give one of them")
        node[key] = dict(inner)
        node = node[key]
    if path[-1] in node:
        raise UserError(f"{former} and {shown}.{path[-1]} ({origin}) are the same setting; give one of them")
    node[path[-1]] = value


@cache
def _default_class(owner: type, argument: str) -> str | None:
    try:
        parameter = inspect.signature(owner).parameters.get(argument)
    except (TypeError, ValueError):
        return None
    default = None if parameter is None else parameter.default
    if not isinstance(default, type) or default is inspect.Parameter.empty:
        return None
    return f"{default.__module__}.{default.__qualname__}"


def _imported(name: str) -> type | None:
    """Returns the class of a dotted path or of a part's short name; None if there is none, which is reported later."""
    parts = (part for slot in registry.slots() for part in registry.available(slot))
    paths = [name] if "." in name else [part.path for part in parts if part.name == name]
    try:
        found = [registry.imported(current_path(path)) for path in paths]
    except registry.PartError:
        return None
    return found[0] if len(found) == 1 and isinstance(found[0], type) else None
