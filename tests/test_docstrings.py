"""Docstrings of public functions that take or return tensors give the shapes.

Functions and methods are read from the source. One counts if its name and those around it have no leading underscore,
and an annotation names `Tensor`. Its docstring gives a shape for each tensor argument, in `Args:`, and for the returned
value, in `Returns:`, `Yields:` or the text before the sections. A shape is written in backticks, such as `[T, d]`, or
in words: "scalar", "of any shape", "same shape". No entry of `Args:` only repeats the name of the argument.

Exempt are:

- functions with one tensor argument, whose text may stand in the place of `Args:`; it has a shape for the argument and
  one for the returned value, or words;
- arguments of the type `Callable[…, Tensor]`, which are functions;
- overrides of a method that a base class in the package documents, if their text has one line and there is neither
  `Args:` nor `Returns:`: the contract of a slot is in its base class;
- functions whose docstring begins with "See" and the name of a documented one with the same tensor arguments;
- overloads, and dunder methods apart from `__call__`: torch and Python define what those take and return.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mmcomponents"

SHAPE = re.compile(r"`\w*\[[^`\[\]]*\]`")
WORDS = re.compile(r"\b[Ss]calars?\b|\b(?:any|same|equal|their|its own) shapes?\b|\bshapes? of\b")
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Warns|Attributes|Note|Example|Examples):\s*$")
ENTRY = re.compile(r"^    (\*{0,2}\w+)(?: \([^)]*\))?: ?(.*)$")
STOP_WORDS = {"the", "a", "an", "its", "their", "of", "everything"}
SEE = re.compile(r"^See `([\w.]+)`")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Package:
    """The functions and classes of a package by name; of several with one name, all."""

    classes: Mapping[str, ast.ClassDef]
    functions: Mapping[str, list[Function]]

    @classmethod
    def of(cls, trees: Iterable[ast.Module]) -> Package:
        """Collects what some modules define."""
        functions: dict[str, list[Function]] = {}
        classes = {}
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = node
                for inner in node.body:
                    if isinstance(inner, Function):
                        functions.setdefault(f"{node.name}.{inner.name}", []).append(inner)
            elif isinstance(node, Function):
                functions.setdefault(node.name, []).append(node)
        return cls(classes, functions)

    def method_above(self, owner: ast.ClassDef, name: str) -> Iterator[Function]:
        """Yields the methods of this name of the base classes."""
        for base in owner.bases:
            above = self.classes.get(ast.unparse(base).split("[")[0].split(".")[-1])
            if above is not None and above is not owner:
                yield from (node for node in above.body if isinstance(node, Function) and node.name == name)
                yield from self.method_above(above, name)

    def named(self, path: str) -> list[Function]:
        """Returns the functions with the last one or two names of a dotted path."""
        *_, last = names = path.split(".")
        return self.functions.get(".".join(names[-2:])) or self.functions.get(last) or []


def complaints(root: Path) -> list[str]:
    """Returns what is missing, one line for each argument and returned value."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))}
    package = Package.of(trees.values())
    found = []
    for path, tree in trees.items():
        for owner, function in _public(tree):
            name = f"{owner.name}.{function.name}" if owner else function.name
            place = f"{path.relative_to(root).as_posix()}:{function.lineno}: {name}"
            found += [f"{place}: {what}" for what in _repeated(function)]
            if not _relies_on_another(owner, function, package):
                found += [f"{place}: {what}" for what in _missing(function)]
    return found


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node)
        elif isinstance(node, Function) and _is_public(node):
            yield (tree if isinstance(tree, ast.ClassDef) else None), node


def _is_public(function: Function) -> bool:
    is_named = function.name == "__call__" or not function.name.startswith("_")
    return is_named and not any(ast.unparse(d).endswith("overload") for d in function.decorator_list)


def _has_tensor(annotation: ast.expr | None) -> bool:
    """Whether an annotation names Tensor; functions that take or return tensors are no tensors."""
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _has_tensor(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Callable"):
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return ast.unparse(annotation).split(".")[-1] == "Tensor"
    return any(_has_tensor(child) for child in ast.iter_child_nodes(annotation) if isinstance(child, ast.expr))


def _tensor_arguments(function: Function) -> list[str]:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    every += [argument for argument in (function.args.vararg, function.args.kwarg) if argument]
    return [argument.arg for argument in every if _has_tensor(argument.annotation)]


def _relies_on_another(owner: ast.ClassDef | None, function: Function, package: Package) -> bool:
    """Whether a docstring without `Args:` and `Returns:` belongs to a documented override, or names such a function."""
    text, sections = _sections(ast.get_docstring(function) or "")
    if not text or "Args" in sections or "Returns" in sections:
        return False
    others = [] if owner is None or "\n" in text else list(package.method_above(owner, function.name))
    if reference := SEE.match(text):
        others += package.named(reference[1])
    own = set(_tensor_arguments(function))
    return any(
        other is not function and own <= set(_tensor_arguments(other)) and not list(_missing(other)) for other in others
    )


def _missing(function: Function) -> Iterator[str]:
    arguments, returns = _tensor_arguments(function), _has_tensor(function.returns)
    if not arguments and not returns:
        return
    docstring = ast.get_docstring(function)
    if docstring is None:
        yield "no docstring"
        return
    text, sections = _sections(docstring)
    entries = _entries(sections.get("Args", ""))
    given = sections.get("Returns", sections.get("Yields"))
    if returns and given is not None and not _gives_shape(given):
        yield "returned value: no shape"
    needed = int(returns and given is None)
    for argument in arguments:
        if argument in entries:
            if not _gives_shape(entries[argument]):
                yield f"{argument}: no shape"
        elif len(arguments) == 1:
            needed += 1
        else:
            yield f"{argument}: no entry in Args"
    shapes = len(SHAPE.findall(text))
    if shapes < needed and not WORDS.search(text):
        yield f"the text has {shapes} of {needed} shapes"


def _repeated(function: Function) -> Iterator[str]:
    """The entries of `Args:` without a word that is not in the name of the argument."""
    _, sections = _sections(ast.get_docstring(function) or "")
    for name, text in _entries(sections.get("Args", "")).items():
        if set(re.findall(r"[a-z]+", text.lower())) - STOP_WORDS <= set(re.findall("[a-z]+", name.lower())):
            yield f"{name}: the entry repeats the name"


def _gives_shape(text: str) -> bool:
    return bool(SHAPE.search(text) or WORDS.search(text))


def _sections(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the sections, and the text of each section with its indentation."""
    prose: list[str] = []
    sections: dict[str, list[str]] = {}
    lines = prose
    for line in docstring.splitlines():
        if heading := SECTION.match(line):
            lines = sections.setdefault(heading[1], [])
        else:
            lines.append(line)
    return "\n".join(prose).strip(), {name: "\n".join(text) for name, text in sections.items()}


def _entries(section: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if start := ENTRY.match(line):
            name = start[1].lstrip("*")
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def test_tensors_have_shapes() -> None:
    found = complaints(SOURCE)
    assert not found, "\n".join(["", *found])


BASE = """
class Base:
    def forward(self, x: Tensor) -> Tensor:
        \"\"\"Maps `[T, d]` to `[T, d]`.\"\"\"
"""
TWO = """
def both(x: Tensor, y: Tensor) -> Tensor:
    \"\"\"Adds.

    Args:
        x: {x}
        y: `[S]` likewise.

    Returns:
        {returns}
    \"\"\"
"""


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def f(x: Tensor) -> None: ...", "no docstring"),
        ("def f(x: Tensor) -> None:\n    'Reads positions.'", "the text has 0 of 1 shapes"),
        ("def f(x: list[Tensor] | None) -> Tensor:\n    'Maps `[T]`.'", "the text has 1 of 2 shapes"),
        (
            "def f(x: Tensor, *, y: torch.Tensor) -> None:\n    'Adds `[T]` and `[T]`.\\n\\nArgs:\\n    x: `[T]`.'",
            "y: no entry",
        ),
        (TWO.format(x="Numbers.", returns="`[S]`."), "x: no shape"),
        (TWO.format(x="`[S]` numbers.", returns="The sum."), "returned value: no shape"),
        (
            "def f(width: int) -> None:\n    'Sets.\\n\\nArgs:\\n    width: Of everything.\\n    '",
            "width: the entry repeats",
        ),
        (f"{BASE}\nclass A:\n    def forward(self, x: Tensor) -> Tensor:\n        'Maps.'", "0 of 2 shapes"),
        (
            "def f(x: Tensor) -> None:\n    'See `a.g`.'\n\ndef g(y: Tensor) -> None:\n    'Reads `[T]`.'",
            "0 of 1 shapes",
        ),
    ],
)
def test_a_break_is_reported(tmp_path: Path, source: str, complaint: str) -> None:
    (tmp_path / "a.py").write_text(source)
    (found,) = complaints(tmp_path)
    assert complaint in found


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: Tensor) -> Tensor:\n    'Maps `[T, d]` to fp32 `[T]`.'",
        "def f(x: Tensor) -> Tensor:\n    'Returns a copy, of the same shape.'",
        "def f(make: Callable[[Tensor], Tensor]) -> int:\n    'Counts.'",
        "def _f(x: Tensor) -> Tensor: ...",
        TWO.format(x="`[S]` numbers.", returns="A scalar."),
        f"{BASE}\nclass A(Base):\n    def forward(self, x: Tensor) -> Tensor:\n        'Maps.'",
        "def f(x: Tensor) -> None:\n    'See `a.g`.'\n\ndef g(x: Tensor) -> None:\n    'Reads `[T]`.'",
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.py").write_text(source)
    assert complaints(tmp_path) == []
