from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents.cli.main import main
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import IndexReport

Write = Callable[[str, str], Path]


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_components_lists_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["components", "projector"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["slot", "name", "package"]
    rows = [line.split()[:3] for line in lines[1:]]
    assert ["projector", "LinearProjector", "mmcomponents"] in rows
    assert {row[0] for row in rows} == {"projector"}
    assert main(["components", "--json", "--arguments", "projector"]) == 0
    arguments = {row["name"]: row["arguments"] for row in json.loads(capsys.readouterr().out)}
    assert list(arguments["LinearProjector"])[:2] == ["in_features", "out_features"]
    assert "did you mean 'projector'?" in line_of_error(capsys, "components", "projektor")
    assert "--jsn" in line_of_error(capsys, "components", "--jsn")


def test_data_verb_calls_functions_with_their_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[object, ...]] = []

    def make(out: str, *, scenes: int = 10, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> str:
        """Makes.

        Args:
            out: Folder.
            scenes: Scenes.
            seed: Seed.
            progress: Is printed of each scene.
        """
        assert progress is not None
        progress(1, 2)
        if scenes < 0:
            raise ValueError("scenes must not be negative,\ngot -1")
        calls.append((out, scenes, seed))
        return out

    def index(
        paths: list[str],
        tokenizer: str,
        kinds: list[str] | None,
        allowed_tokens: list[str] | None,
        progress: Callable[[int, int], None],
    ) -> IndexReport:
        """Indexes.

        Args:
            paths: Shards.
            tokenizer: Folder.
            kinds: Names.
            allowed_tokens: Tokens.
            progress: Receives the progress.
        """
        calls.append((paths, tokenizer, kinds))
        if tokenizer == "none":
            raise DataError("there is no tokenizer")
        return IndexReport(paths=[f"{path}.idx" for path in paths], samples=5)

    monkeypatch.setattr("mmcomponents.demos.handwriting.builder.make_handwriting", make)
    monkeypatch.setattr("mmcomponents.data.format.indexing.index_shards", index)
    assert main(["data", "handwriting", "--out", "d", "--scenes", "3"]) == 0
    assert main(["data", "index", "a.tar", "b.tar", "--tokenizer", "t"]) == 0
    assert calls == [("d", 3, 0), (["a.tar", "b.tar"], "t", None)]
    assert capsys.readouterr().out == "d\nindexed 2 shards: 5 samples, 5 usable, 0 skipped\n"
    assert line_of_error(capsys, "data", "index", "a", "--tokenizer", "none").endswith("there is no tokenizer\n")
    assert "did you mean 'handwriting'?" in line_of_error(capsys, "data", "handwritng")
    assert "did you mean 'pack'?" in line_of_error(capsys, "data", "packk")
    assert "examples/ladder/ladder_dataset.py" in line_of_error(capsys, "data", "ladder")
    assert "scenes: Expected a int" in line_of_error(capsys, "data", "handwriting", "--out", "d", "--scenes", "x")
    assert "--scen 3; did you mean 'scenes'?" in line_of_error(
        capsys, "data", "handwriting", "--out", "d", "--scen", "3"
    )
    assert "out" in line_of_error(capsys, "data", "handwriting")
    printed = line_of_error(capsys, "data", "handwriting", "--out", "d", "--scenes", "-1")
    assert printed.endswith("scenes must not be negative, got -1\n")
