"""The plugin in a pytest run of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import Ranks
from mmcomponents.testing.component_check import CONTRACTS
from mmcomponents.vision import InternViT

TESTS = """
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing import check_component


def test_mine():
    reasons = {"half_precision": "used in fp32 only"}
    check_component("projector", MLPProjector, only=["declared_sizes", "half_precision"], not_applicable=reasons)
"""


def test_what_does_not_apply_is_printed(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["mmcomponents.testing.pytest_plugin"]')
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-q")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "* contract tests of 1 checked parts: 1 passed, 1 not applicable *",
            "not applicable: half_precision: used in fp32 only (projector MLPProjector)",
        ]
    )


def test_a_run_without_checks_prints_nothing(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["mmcomponents.testing.pytest_plugin"]')
    pytester.makepyfile("def test_other(): pass")
    result = pytester.runpytest_inprocess("-q")
    result.stdout.no_fnmatch_line("*contract tests*")


def test_the_page_in_the_docs(two_ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its test file runs, with parts of `my_package`, and its table has the names of all tests."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    package = ModuleType("my_package")
    package.MyProjector, package.MyVision = LinearProjector, InternViT
    monkeypatch.setitem(sys.modules, "my_package", package)
    code, conftest, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "test_my_parts.py", "exec"), found)
    found["test_my_projector"](two_ranks)
    found["test_my_vision"](two_ranks)
    assert 'pytest_plugins = ["mmcomponents.testing.pytest_plugin"]' in conftest
    for name in CONTRACTS:
        assert f"`{name}`" in page
