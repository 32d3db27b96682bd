"""The tests of examples/third_party, as its author runs them, in this suite."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "examples/third_party/tests/test_place_projector.py"
SPEC = importlib.util.spec_from_file_location("tests_of_pointing", FILE)
assert SPEC is not None
assert SPEC.loader is not None
TESTS = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(TESTS)


@pytest.mark.parametrize("name", [name for name in vars(TESTS) if name.startswith("test_")])
def test_the_tests_of_the_package_pass(name: str, request: pytest.FixtureRequest) -> None:
    function: Any = getattr(TESTS, name)
    function(**{fixture: request.getfixturevalue(fixture) for fixture in inspect.signature(function).parameters})


def test_there_are_some() -> None:
    assert len([name for name in vars(TESTS) if name.startswith("test_")]) == 4
