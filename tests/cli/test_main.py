"""The table of verbs and `python -m mmcomponents`."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from mmcomponents.cli.main import VERBS, main


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_its_module(verb: str) -> None:
    assert callable(importlib.import_module(f"mmcomponents.cli.{VERBS[verb][0]}").main)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as end:  # of argparse
        code = end.code
    assert code == 0
    assert f"mmcomponents {verb}" in capsys.readouterr().out


def test_the_package_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "mmcomponents"], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert all(verb in shown.stdout for verb in VERBS)
