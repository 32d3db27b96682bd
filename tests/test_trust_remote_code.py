"""Every call that lets transformers read a folder says whether it may run code.

Without `trust_remote_code`, transformers asks on standard input, where a piped answer is taken.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READING = ("from_pretrained", "from_config")
OWN = {"ModelSpec.from_config"}


def calls_without(source: str) -> Iterator[str]:
    """Line and text of each call of `from_pretrained` or `from_config` that leaves the argument out."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        if node.func.attr in READING and name not in OWN and "trust_remote_code" not in given:
            yield f"{node.lineno}: {name} without trust_remote_code"


@pytest.mark.parametrize("folder", ["src", "benchmarks", "examples"])
def test_no_call_leaves_the_question_open(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [f"{file}:{line}" for file in files for line in calls_without(file.read_text(encoding="utf-8"))] == []


def test_a_call_that_leaves_it_open_is_found() -> None:
    source = "AutoTokenizer.from_pretrained(folder, local_files_only=True)\nModelSpec.from_config({})"
    assert list(calls_without(source)) == ["1: AutoTokenizer.from_pretrained without trust_remote_code"]
    assert not list(calls_without("kind.from_pretrained(folder, trust_remote_code=False)"))
