"""Classes read from their sources have the arguments that they have when they are imported."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from mmcomponents import registry
from mmcomponents.class_source import arguments_of, class_source, source_file

EVERY = [part.path for slot in registry.slots() for part in registry.available(slot)]


@pytest.mark.parametrize("path", [*EVERY, "mmcomponents.training.MultimodalTask", "lightning.pytorch.Trainer"])
def test_arguments_are_those_of_the_signature(path: str) -> None:
    found = arguments_of(path)
    expected = inspect.signature(registry.imported(path)).parameters
    assert found in (None, [*expected])
    assert found is not None or registry.imported(path).__init__ is object.__init__ or path in EVERY


def test_most_parts_can_be_read() -> None:
    assert sum(arguments_of(path) is not None for path in EVERY) > 0.75 * len(EVERY)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    write("readable/__init__.py", "from readable.parts import Part as Shown\nfrom .parts import Own, Any_, Data\n")
    write(
        "readable/parts.py",
        "from dataclasses import dataclass\nfrom readable.base import Base\nraise ImportError\n"
        "class Part(Base): pass\n"
        "class Own(Base):\n    def __init__(self, a, *, b=1): pass\n"
        "class Any_(Base):\n    def __init__(self, a, **rest): pass\n"
        "@dataclass\nclass Data:\n    a: int\n",
    )
    write("readable/base.py", "class Base:\n    '''Reads.'''\n    def __init__(self, x, y): pass\n")
    write("readable/broken.py", "class (")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_nothing_is_imported() -> None:
    assert arguments_of("readable.Shown") == arguments_of("readable.parts.Part") == ["x", "y"]
    assert arguments_of("readable.Own") == ["a", "b"]
    for unknown in ("Any_", "Data", "Missing", "parts.Missing"):
        assert arguments_of(f"readable.{unknown}") is None
    assert arguments_of("no_such_package.Part") is None
    found = class_source("readable.base.Base")
    assert found is not None
    assert ast.get_docstring(found.node) == "Reads."
    assert source_file("readable") is not None
    with pytest.warns(UserWarning, match="cannot read readable.broken"):
        assert class_source("readable.broken.Part") is None
