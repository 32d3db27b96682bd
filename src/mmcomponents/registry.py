"""Registry of the components of each slot by short name, read without importing them.

Built-in components are the classes that a slot's package re-exports, read from its source. Those of other packages are
entry points of the group `mmcomponents.components`, with names `slot.ClassName`:

    [project.entry-points."mmcomponents.components"]
    "projector.MyProjector" = "my_package.projectors:MyProjector"

This module does not import torch, so that a listing takes a fraction of a second.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmcomponents.class_source import body_of, class_source, imports_of
from mmcomponents.moved import current_path

GROUP = "mmcomponents.components"
"""Entry point group of third-party components."""

PACKAGE = "mmcomponents"

_EXTRAS = ("torchao", "bitsandbytes", "diffusers")
"""Packages that are extras of this one with the same name."""

# Slot -> (package, base class). The keys are the names of the slots in recipes and entry points. Text encoders, noise
# schedules and denoisers are arguments of embedders and heads.
_SLOTS = {
    "vision": ("vision", "VisionEncoder"),
    "fuser": ("fusers", "Fuser"),
    "merger": ("mergers", "Merger"),
    "projector": ("projectors", "Projector"),
    "embedder": ("embedders", "Embedder"),
    "position": ("positions", "Position"),
    "backbone": ("backbones", "Backbone"),
    "head": ("heads", "Head"),
    "objective": ("objectives", "Objective"),
    "sampler": ("generation", "Sampler"),
    "selector": ("evaluation.selectors", "Selector"),
    "record_kind": ("data.chat.kinds", "RecordKind"),
    "packer": ("data.packing", "Packer"),
    "text_encoder": ("embedders", "TextEncoder"),
    "noise_schedule": ("heads", "NoiseSchedule"),
    "denoiser": ("heads.denoisers", "Denoiser"),
}


class PartError(ValueError):
    """A component is not found, or its name is ambiguous; the one-line message suggests similar names."""


class PartWarning(UserWarning):
    """An installed package declares a component wrongly, or with a name of the library's."""


@dataclass(frozen=True)
class Part:
    """One component that a slot can hold.

    Attributes:
        slot: Name of the slot.
        name: Short name, the name of the class.
        path: Dotted import path.
        package: Distribution that provides it.
    """

    slot: str
    name: str
    path: str
    package: str

    def summary(self) -> str:
        """Returns the first line of the class docstring, read from the source; empty if there is none."""
        found = class_source(self.path)
        return ((ast.get_docstring(found.node) if found else None) or "").partition("\n")[0]


def slots() -> dict[str, str]:
    """Returns the dotted path of the base class of each slot."""
    return {slot: f"{PACKAGE}.{folder}.{base}" for slot, (folder, base) in _SLOTS.items()}


def available(slot: str) -> list[Part]:
    """Returns all components for a slot, built-in ones first; a name declared by two packages appears twice.

    Raises:
        PartError: The slot does not exist.
    """
    _check_slot(slot)
    return [*_built_in(slot, Path(__file__).parent), *_third_party(slot)]


def resolve(slot: str, name: str) -> str:
    """Returns the dotted path of a component.

    Args:
        slot: Name of the slot.
        name: Short name, or a dotted path, for which `current_path` is returned.

    Raises:
        PartError: The slot does not exist, no package has a component of this name, or two packages declare it. A name
            of the library's is the library's, with a warning.
    """
    _check_slot(slot)
    if "." in name:
        return current_path(name)
    parts = available(slot)
    found = _own_first([part for part in parts if part.name == name])
    if len(found) > 1:
        packages = " and ".join(f"{part.package} ({part.path})" for part in found)
        raise PartError(f"{slot} {name!r} is declared by {packages}; give the dotted path of one of them")
    if found:
        return found[0].path
    names = sorted({part.name for part in parts})
    listing = ", ".join(names) if names else "none"
    raise PartError(f"no {slot} is called {name!r}{near(name, names)} (available: {listing}; a dotted path works too)")


def find(name: str) -> str:
    """Returns the dotted path of a component of any slot, as for a part that is an argument of another part.

    Raises:
        PartError: No slot has a component of this name, or two have.
    """
    if "." in name:
        return current_path(name)
    named = [part for slot in _SLOTS for part in available(slot) if part.name == name]
    found = {part.path: part for part in _own_first(named)}
    if len(found) > 1:
        raise PartError(f"{name!r} is declared as {' and '.join(found)}; give the dotted path of one of them")
    if not found:
        names = sorted({part.name for slot in _SLOTS for part in available(slot)})
        raise PartError(f"no part is called {name!r}{near(name, names)}; a dotted path works too")
    return next(iter(found))


def declared(path: str) -> Part | None:
    """Returns the component with a short name that a class is, None if no installed package declares it.

    Args:
        path: Dotted path of a class, which may also be imported from elsewhere.
    """
    name = path.rpartition(".")[2]
    with suppress(PartError):
        known = find(name)
        if imported(known) is imported(current_path(path)):
            return next(part for slot in _SLOTS for part in available(slot) if part.path == known)
    return None


def load(slot: str, name: str) -> type:
    """Imports the class of a component. Nothing else than a subclass of the slot's base is accepted.

    Args:
        slot: Name of the slot.
        name: Short name or dotted path.

    Raises:
        PartError: The component is not found, cannot be imported, is not such a class, or is abstract.
    """
    path, base_path = resolve(slot, name), slots()[slot]
    found, base = imported(path), imported(base_path)
    if not (isinstance(found, type) and issubclass(found, base)) or found is base:
        raise PartError(f"{path} is not a {slot}, a subclass of {base_path}")
    if missing := missing_methods(found):
        raise PartError(f"{path} is abstract: it does not define {missing}")
    return found


def missing_methods(found: type) -> str:
    """Returns the names of a class's abstract methods; empty if there are none."""
    names = (name for name in dir(found) if getattr(getattr(found, name, None), "__isabstractmethod__", False))
    return ", ".join(names)


def imported(path: str) -> Any:
    """Returns the object at a dotted path.

    Raises:
        PartError: It cannot be imported. The import runs code of the module, so any of its exceptions is caught.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        hint = extra_hint(error)
        if not hint and isinstance(error, ModuleNotFoundError) and error.name == path.partition(".")[0]:
            hint = " (a module of the current folder is found with PYTHONPATH=.)"
        raise PartError(f"cannot import {path}: {reason}{hint}") from error
    if not hasattr(module, name):
        raise PartError(f"{module_name} has no {name}{near(name, dir(module))}")
    return getattr(module, name)


def extra_hint(error: BaseException) -> str:
    """Returns how to install a package that is missing, if it is an extra of this one, else an empty string."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return f' (pip install "{PACKAGE}[{name}]")' if name in _EXTRAS else ""


def near(name: str, names: Iterable[str], former: Mapping[str, str] = MappingProxyType({})) -> str:
    """Returns a hint with the most similar of `names`, "; did you mean …?", or an empty string.

    Args:
        name: Unknown name.
        names: Valid names.
        former: Former names, which are compared too, and the present ones, which are shown instead.
    """
    folded = {n.lower(): former.get(n, n) for n in [*names, *former]}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def _own_first(parts: list[Part]) -> list[Part]:
    """Returns the library's components of those with one name, or all if there are none; warns of the others."""
    own = [part for part in parts if part.package == PACKAGE]
    for part in parts if own else ():
        if part.package != PACKAGE:
            taken = f"{part.package} declares the {part.slot} {part.name!r}, which is a name of {PACKAGE}"
            warnings.warn(f"{taken}: its own needs the dotted path {part.path}", PartWarning, stacklevel=3)
    return own or parts


def _check_slot(slot: str) -> None:
    if slot not in _SLOTS:
        raise PartError(f"no slot {slot!r}{near(slot, _SLOTS)}; the slots are {', '.join(_SLOTS)}")


@lru_cache
def _built_in(slot: str, package: Path) -> tuple[Part, ...]:
    """Returns the classes that the slot's package re-exports and that derive, within it, from the slot's base."""
    folder, base = _SLOTS[slot]
    module = f"{PACKAGE}.{folder}"
    init = package.joinpath(*folder.split("."), "__init__.py")
    if not init.is_file():
        return ()
    parents: dict[str, set[str]] = {}
    for file in sorted(init.parent.glob("*.py")):
        if file.name != "base.py":
            for node in body_of(file):
                if isinstance(node, ast.ClassDef):
                    parents[node.name] = {_last_name(parent) for parent in node.bases}

    def derives(name: str) -> bool:
        return any(parent == base or derives(parent) for parent in parents.get(name, ()))

    exported = {alias for alias, _, _ in imports_of(module, init)} | {n for n in parents if _defines(init, n)}
    return tuple(Part(slot, name, f"{module}.{name}", PACKAGE) for name in sorted(exported) if derives(name))


def _third_party(slot: str) -> list[Part]:
    found = _installed(tuple(sys.path), tuple(map(_changed, sys.path)))
    return [part for part in found if part.slot == slot]


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...], changed: tuple[int, ...]) -> tuple[Part, ...]:
    """Returns the components of all packages; reading the metadata of every installed package takes a while."""
    parts = {_part(entry) for entry in entry_points(group=GROUP)}
    return tuple(sorted((part for part in parts if part is not None), key=lambda part: (part.name, part.package)))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _part(entry: EntryPoint) -> Part | None:
    """Returns the component that an entry point declares; warns and returns None if it is invalid."""
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    slot, _, name = entry.name.partition(".")
    module, _, attribute = entry.value.partition(":")
    if slot not in _SLOTS or not name.isidentifier() or not attribute:
        wanted = f"slot.ClassName = module:ClassName with a slot of {', '.join(_SLOTS)}"
        said = f"{package} declares the part {entry.name!r} = {entry.value!r}, not {wanted}"
        warnings.warn(said, PartWarning, stacklevel=2)
        return None
    return Part(slot, name, f"{module.strip()}.{attribute.strip()}", package)


def _defines(file: Path, name: str) -> bool:
    body = body_of(file)
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in body)


def _last_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
