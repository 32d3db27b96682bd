"""The short names of parts: what can be put into a slot, found without importing any of it.

Our own parts are the classes that a slot's package re-exports, read from its source. Those of other packages come from
the entry point group `mmcomponents.components`, with names `slot.ClassName`:

    [project.entry-points."mmcomponents.components"]
    "projector.MyProjector" = "my_package.projectors:MyProjector"

Nothing here imports torch, so that a listing takes a fraction of a second.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

GROUP = "mmcomponents.components"
"""Entry point group of third parties' parts."""

PACKAGE = "mmcomponents"

# Slot -> (package of ours, base class). The keys are the slot's names in recipes and in entry points.
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
    "sampler": ("inference", "Sampler"),
    "selector": ("inference.selectors", "Selector"),
}


class PartError(ValueError):
    """A part cannot be found, or its name is not clear; the message is one line and names the near ones."""


@dataclass(frozen=True)
class Part:
    """One part that a slot can hold.

    Attributes:
        slot: Name of the slot.
        name: Short name, which is the name of the class.
        path: Dotted path by which it is imported.
        package: Distribution that brings it.
    """

    slot: str
    name: str
    path: str
    package: str

    def summary(self) -> str:
        """First line of the class's docstring, read from the source; empty where there is none to read."""
        module, _, name = self.path.rpartition(".")
        return _summary(module, name, depth=3)


def slots() -> dict[str, str]:
    """Dotted path of the base class of each slot."""
    return {slot: f"{PACKAGE}.{folder}.{base}" for slot, (folder, base) in _SLOTS.items()}


def available(slot: str) -> list[Part]:
    """All parts for a slot, our own first; a name that two packages claim appears twice.

    Raises:
        PartError: There is no such slot.
    """
    if slot not in _SLOTS:
        raise PartError(f"no slot {slot!r}{near(slot, _SLOTS)}; the slots are {', '.join(_SLOTS)}")
    return [*_own(slot), *_foreign(slot)]


def resolve(slot: str, name: str) -> str:
    """The dotted path of a part.

    Args:
        slot: Name of the slot.
        name: Short name; a dotted path is returned as it is.

    Raises:
        PartError: No package has a part of this name, or two packages claim it.
    """
    parts = available(slot)
    if "." in name:
        return name
    found = [part for part in parts if part.name == name]
    if len(found) > 1:
        claims = " and ".join(f"{part.package} ({part.path})" for part in found)
        raise PartError(f"{slot} {name!r} is claimed by {claims}; give the dotted path of the one you mean")
    if found:
        return found[0].path
    names = sorted({part.name for part in parts})
    listing = ", ".join(names) if names else "none"
    raise PartError(f"no {slot} is called {name!r}{near(name, names)} (available: {listing}; a dotted path works too)")


def near(name: str, names: Iterable[str]) -> str:
    """Says which of `names` the user may have meant: "; did you mean …?", or nothing.

    Args:
        name: What was written.
        names: What could have been written.
    """
    folded = {n.lower(): n for n in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.5)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


def _own(slot: str) -> list[Part]:
    """Classes that our slot package re-exports and that descend, within the package, from the slot's base."""
    folder, base = _SLOTS[slot]
    module = f"{PACKAGE}.{folder}"
    init = Path(__file__).parent.joinpath(*folder.split("."), "__init__.py")
    if not init.is_file():
        return []
    parents: dict[str, set[str]] = {}
    for file in sorted(init.parent.glob("*.py")):
        if file.name != "base.py":
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    parents[node.name] = {_last_name(parent) for parent in node.bases}

    def descends(name: str) -> bool:
        return any(parent == base or descends(parent) for parent in parents.get(name, ()))

    exported = {alias for alias, _, _ in _imports(module, init)} | {n for n in parents if _defines(init, n)}
    return [Part(slot, name, f"{module}.{name}", PACKAGE) for name in sorted(exported) if descends(name)]


def _foreign(slot: str) -> list[Part]:
    parts = {_part(entry) for entry in entry_points(group=GROUP)}
    return sorted((p for p in parts if p is not None and p.slot == slot), key=lambda part: (part.name, part.package))


def _part(entry: EntryPoint) -> Part | None:
    """The part that an entry point declares; a broken one is reported and left out."""
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    slot, _, name = entry.name.partition(".")
    module, _, attribute = entry.value.partition(":")
    if slot not in _SLOTS or not name.isidentifier() or not attribute:
        wanted = f"slot.ClassName = module:ClassName with a slot of {', '.join(_SLOTS)}"
        warnings.warn(f"{package} declares the part {entry.name!r} = {entry.value!r}, not {wanted}", stacklevel=2)
        return None
    return Part(slot, name, f"{module.strip()}.{attribute.strip()}", package)


def _summary(module: str, name: str, depth: int) -> str:
    """Docstring line of a class, followed through re-exports at most `depth` times."""
    source = _source(module)
    if source is None or depth == 0:
        return ""
    try:
        body = ast.parse(source.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        warnings.warn(f"cannot read {module}, which declares the part {name}: {error}", stacklevel=2)
        return ""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    for alias, origin, original in _imports(module, source):
        if alias == name:
            return _summary(origin, original, depth - 1)
    return ""


def _source(module: str) -> Path | None:
    """Source file of a module. Only the top-level package is looked up, as deeper look-ups would import parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for root in spec.submodule_search_locations or ():
        stem = Path(root, *rest)
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _imports(module: str, file: Path) -> Iterator[tuple[str, str, str]]:
    """(name here, module it comes from, name there) of each `from … import …` at the top of a module."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            head = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*head, *([node.module] if node.module else [])])
            for alias in node.names:
                yield alias.asname or alias.name, origin, alias.name


def _defines(file: Path, name: str) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in body)


def _last_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
