"""Lists of faults that tests must notice, as YAML.

- why: one sentence that says what the fault does
  file: src/mmcomponents/….py
  old: text that occurs exactly once in the file
  new: what stands there instead
  test: tests/….py::test_name, or a list of them, or whole files
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Fault:
    """A change of one file that tests must notice."""

    why: str
    file: str
    old: str
    new: str
    test: str | list[str]

    @property
    def tests(self) -> list[str]:
        """The tests, one of which must fail."""
        return [self.test] if isinstance(self.test, str) else self.test

    @contextmanager
    def put_into(self, root: Path) -> Iterator[None]:
        """Changes the file of a project, and puts it back."""
        path = root / self.file
        source = path.read_text(encoding="utf-8")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(source, encoding="utf-8")


def read(lists: Iterable[Path]) -> list[Fault]:
    """Reads faults.

    Raises:
        TypeError: If an entry lacks a field, or has one too many.
    """
    return [Fault(**entry) for path in lists for entry in yaml.safe_load(path.read_text(encoding="utf-8")) or ()]


def out_of_date(root: Path, faults: Iterable[Fault]) -> list[str]:
    """What does not fit a project: a line for each text that does not occur once, and each test that does not exist."""
    found = []
    for fault in faults:
        count = _text(root / fault.file).count(fault.old)
        if count != 1:
            found.append(f"{fault.file}: the text occurs {count} times, not once ({fault.why})")
        for test in fault.tests:
            name, *functions = test.split("[")[0].split("::")
            tree = ast.walk(ast.parse(_text(root / name)))
            defined = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            if not (root / name).is_file() or set(functions) - defined:
                found.append(f"{test}: there is no such test ({fault.why})")
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
