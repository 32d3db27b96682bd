"""Parts of other packages that cannot be used: one line for each, and nothing else stops."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import train_tokenizer

Write = Callable[[str, str], Path]
GOOD = """
from mmcomponents.projectors import LinearProjector


class Bridge(LinearProjector):
    '''A bridge of {}.'''


class Rope(LinearProjector):
    '''A rope.'''
"""
PACKAGES = {
    "timber": ("projector.Bridge = timber:Bridge\nprojector.Rope = timber:Rope", GOOD.format("wood")),
    "masonry": ("projector.Bridge = masonry:Bridge", GOOD.format("stone")),
    "broken": ("projector.Broken = broken:Broken", "raise RuntimeError('no luck')"),
    "leaving": ("projector.Leaving = leaving:Leaving", "raise SystemExit(3)"),
    "older": ("projector.Older = older:Older", "import nothing_that_is_there"),
    "foreign": ("projector.Foreign = foreign:Foreign\nprojector.Absent = foreign:Absent", "class Foreign: ..."),
    "loose": ("projectr.Loose = loose:Loose", ""),
}
SAID = {
    "Bridge": "projector 'Bridge' is declared by masonry (masonry.Bridge) and timber (timber.Bridge); give the dotted"
    " path of one of them",
    "Broken": "cannot import broken.Broken: RuntimeError: no luck",
    "Leaving": "cannot import leaving.Leaving: SystemExit: 3",
    "Older": "cannot import older.Older: ModuleNotFoundError: No module named 'nothing_that_is_there'",
    "Foreign": "foreign.Foreign is not a projector, a subclass of mmcomponents.projectors.Projector",
    "Absent": "foreign has no Absent",
}


@pytest.fixture
def _packages(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts the packages on the path, as pip does."""
    for name, (entries, source) in PACKAGES.items():
        write(f"site/{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n")
        write(f"site/{name}-1.0.dist-info/entry_points.txt", f"[mmcomponents.components]\n{entries}\n")
        write(f"site/{name}.py", source)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in PACKAGES:
        sys.modules.pop(name, None)


def listed(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[Any, list[str]]:
    """Returns what the verb has printed for the projectors, and the lines of its warnings."""
    assert main(["components", "projector", *flags]) == 0
    printed = capsys.readouterr()
    return printed.out, printed.err.splitlines()


@pytest.mark.usefixtures("_packages")
def test_parts_that_cannot_be_used_do_not_end_the_listing(capsys: pytest.CaptureFixture[str]) -> None:
    out, warned = listed(capsys, "--json")
    rows = {(row["package"], row["name"]): row for row in json.loads(out)}
    assert rows["timber", "Rope"]["arguments"] == {"in_features": "", "out_features": "", "bias": "True"}
    assert rows["timber", "Bridge"]["summary"] == "A bridge of wood."
    assert rows["masonry", "Bridge"]["summary"] == "A bridge of stone."
    assert rows["mmcomponents", "LinearProjector"]["arguments"]
    assert all(rows[name.lower(), name]["arguments"] is None for name in ("Broken", "Leaving", "Older", "Foreign"))
    assert rows["broken", "Broken"]["version"] == "1.0"
    for name in ("Broken", "Leaving", "Older", "Foreign"):
        assert f"mmcomponents: {name.lower()}: {SAID[name]}" in warned
    assert f"mmcomponents: foreign: {SAID['Absent']}" in warned
    assert f"mmcomponents: {SAID['Bridge']}" in warned
    (other,) = [line for line in warned if "projectr" in line]
    assert other.startswith(
        "mmcomponents: loose declares the part 'projectr.Loose' = 'loose:Loose', not slot.ClassName"
    )
    assert len(warned) == len(SAID) + 1


@pytest.mark.usefixtures("_packages")
def test_the_plain_listing_imports_nothing_and_names_what_is_declared_twice(capsys: pytest.CaptureFixture[str]) -> None:
    out, warned = listed(capsys)
    assert all(name in out for name in ("Broken", "Foreign", "A bridge of wood.", "A bridge of stone."))
    assert [line for line in warned if "projectr" not in line] == [f"mmcomponents: {SAID['Bridge']}"]


@pytest.mark.usefixtures("_packages")
@pytest.mark.parametrize("name", SAID)
def test_a_run_that_names_one_is_refused_with_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "quickstart", "--model.projector", name]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmcomponents: ")]
    (line,) = [line for line in lines if "loose declares the part 'projectr.Loose'" not in line]
    assert SAID[name] in line


@pytest.mark.usefixtures("_packages")
@pytest.mark.parametrize("name", ["Rope", "masonry.Bridge"])
def test_a_run_that_names_another_goes_on(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    train_tokenizer(["3 7 1"] * 3, 300).save_pretrained("tokenizer")
    flags = ["--data.tokenizer", "tokenizer", "--model.projector", name]
    assert main(["plan", "--config", "quickstart", *flags]) == 0
    assert name.rpartition(".")[2] in capsys.readouterr().out
