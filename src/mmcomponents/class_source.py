"""Classes as they are in their source files, without an import of their modules, which may take seconds."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_DEPTH = 8
"""Maximum number of re-exports and base classes that are followed."""


@dataclass(frozen=True)
class ClassSource:
    """A class in the source of a module.

    Attributes:
        module: Name of the module.
        file: File of the module.
        node: The class.
    """

    module: str
    file: Path
    node: ast.ClassDef

    def method(self, name: str) -> ast.FunctionDef | None:
        """Returns a method that the class itself defines."""
        found = (node for node in self.node.body if isinstance(node, ast.FunctionDef) and node.name == name)
        return next(found, None)


def source_file(module: str) -> Path | None:
    """Returns the source file of a module. Only the top-level package is looked up: deeper look-ups import parents."""
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


def body_of(file: Path) -> list[ast.stmt]:
    """Returns the top-level statements of a file."""
    return _parsed(file, file.stat().st_mtime_ns)


def imports_of(module: str, file: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (local name, source module, source name) of each top-level `from … import …` of a module."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in body_of(file):
        if isinstance(node, ast.ImportFrom):
            head = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*head, *([node.module] if node.module else [])])
            for alias in node.names:
                yield alias.asname or alias.name, origin, alias.name


def class_source(path: str, depth: int = _DEPTH) -> ClassSource | None:
    """Returns a class by its dotted path, following re-exports; None if it is not found.

    Warns if the source cannot be read.
    """
    module, _, name = path.rpartition(".")
    file = source_file(module) if depth and module else None
    if file is None:
        return None
    try:
        for node in body_of(file):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return ClassSource(module, file, node)
        origins = [f"{origin}.{original}" for alias, origin, original in imports_of(module, file) if alias == name]
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        warnings.warn(f"cannot read {module}, which declares the part {name}: {error}", stacklevel=2)
        return None
    return next(filter(None, (class_source(origin, depth - 1) for origin in origins)), None)


def arguments_of(path: str, method: str = "__init__", depth: int = _DEPTH) -> list[str] | None:
    """Returns the names of a method's arguments without `self`.

    Args:
        path: Dotted path of the class.
        method: Name of the method; one that the class does not define is looked up in its first base.
        depth: Maximum number of classes that are read.

    Returns:
        None if they are not known: the source is not found, the method takes any keyword, or the class is a dataclass
        or a protocol of another kind.
    """
    found = class_source(path) if depth else None
    if found is None or found.node.decorator_list:
        return None
    defined = found.method(method)
    if defined is not None:
        own = defined.args
        if own.kwarg is not None:
            return None
        return [argument.arg for argument in (*own.posonlyargs, *own.args, *own.kwonlyargs)][1:]
    if not found.node.bases or not isinstance(base := found.node.bases[0], ast.Name):
        return None
    named = {alias: f"{origin}.{original}" for alias, origin, original in imports_of(found.module, found.file)}
    return arguments_of(named.get(base.id, f"{found.module}.{base.id}"), method, depth - 1)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body
