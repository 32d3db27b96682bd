"""The runner of faults on a project of one function, and whether the lists of this project fit it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fault_list import out_of_date, read
from run_mutations import ROOT, run

FAULT = {"why": "adds one more", "file": "src/count.py", "old": "n + 1", "new": "n + 2", "test": "tests/test_count.py"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "src" / "count.py").write_text("def after(n):\n    return n + 1\n")
    (tmp_path / "tests" / "test_count.py").write_text(
        "import pytest\nfrom count import after\n\n"
        "@pytest.fixture\ndef two():\n    assert after(1) == 2\n\n"
        "def test_after():\n    assert after(1) == 2\n\n"
        "def test_of_zero():\n    assert after(0) > 0\n\n"
        "def test_with_two(two):\n    pass\n\n"
        "def test_that_fails():\n    assert False\n"
    )
    return tmp_path


def checked(project: Path, *faults: dict[str, str]) -> tuple[int, str]:
    (project / "faults.yaml").write_text(yaml.safe_dump(list(faults)))
    console = Console(file=io.StringIO(), width=200)
    code = run(project, [project / "faults.yaml"], console, libraries=())
    assert (project / "src" / "count.py").read_text().endswith("n + 1\n")
    return code, console.file.getvalue()


def test_a_fault_that_a_test_notices_is_no_complaint(project: Path) -> None:
    code, text = checked(project, FAULT | {"test": "tests/test_count.py::test_after"})
    assert (code, "1 of 1 faults noticed" in text) == (0, True)


def test_faults_that_no_test_notices_are_told(project: Path) -> None:
    faults = [
        ("test_of_zero", "n + 2"),
        ("test_with_two", "n + 2"),  # no test failed: one could not be set up
        ("test_after", "n +"),  # no test failed: none could be collected
        ("test_that_fails", "n + 2"),  # it fails without the fault too
    ]
    code, text = checked(
        project, *(FAULT | {"test": f"tests/test_count.py::{test}", "new": new} for test, new in faults)
    )
    assert (code, "0 of 4 faults noticed" in text) == (1, True)


def test_a_fault_that_no_test_notices_is_told_beside_one_that_is_noticed(project: Path) -> None:
    noticed, missed = (FAULT | {"test": f"tests/test_count.py::{test}"} for test in ("test_after", "test_of_zero"))
    code, text = checked(project, noticed, missed)
    assert (code, "1 of 2 faults noticed" in text) == (1, True)


@pytest.mark.parametrize(
    "change",
    [
        {"old": "n + 3"},
        {"old": "n"},
        {"file": "src/gone.py"},
        {"test": "tests/gone.py"},
        {"test": "tests/test_count.py::gone"},
    ],
)
def test_a_list_that_does_not_fit_is_refused(project: Path, change: dict[str, str]) -> None:
    code, text = checked(project, FAULT | change)
    assert (code, "out of date" in text) == (2, True)


def test_the_lists_of_this_project_fit_it() -> None:
    faults = read(sorted(Path(__file__).parent.glob("*.yaml")))
    assert out_of_date(ROOT, faults) == []
