"""Completion of the command in a shell, and the list of recipes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmcomponents.cli.completion import candidates
from mmcomponents.cli.main import VERBS, main
from mmcomponents.cli.recipes.recipe import shipped


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["co"], {"completion", "components"}),
        (["fit", "--config", "quick"], {"quickstart"}),
        (["plan", "-c", "piip/t"], {"piip/tiny"}),
        (["fit", "--model.projector", "Li"], {"LinearProjector", "LiveLangBridge"}),
        (["data", "in"], {"index", "inspect"}),
        (["components", "pro"], {"projector"}),
        (["fit", "--trainer.max_s"], {"--trainer.max_steps"}),
        (["test", "--conf"], {"--config"}),
        (["generate", "--im"], set()),
    ],
)
def test_words_are_completed(words: list[str], expected: set[str]) -> None:
    assert {*candidates(words, len(words) - 1)} == expected


def test_all_verbs_are_candidates() -> None:
    assert candidates([], 0) == sorted(VERBS)


def test_bash_asks_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    assert main(["completion"]) == 0
    program = tmp_path / "mmcomponents"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmcomponents "$@"\n')
    program.chmod(0o755)
    script = capsys.readouterr().out + (
        f'COMP_WORDS=("{program}" fit --config internvl3/8b-q)\nCOMP_CWORD=3\n_mmcomponents\necho "${{COMPREPLY[@]}}"\n'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["internvl3/8b-qlora-24gb"]


def test_recipes_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in found] == shipped()
    assert all(Path(recipe["file"]).is_file() and recipe["description"] for recipe in found)
    assert main(["recipes", "piip/"]) == 0
    printed = capsys.readouterr().out
    assert "piip/tiny" in printed
    assert "internvl3/8b" not in printed.split()
    assert main(["recipes", "nothing"]) == 2
    assert "no recipe begins with 'nothing'" in capsys.readouterr().err


def test_the_help_of_a_slot_lists_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    for slot, part in (("projector", "MLPProjector"), ("heads.lm", "LMHead"), ("heads", "LMHead")):
        assert main(["fit", "--config", "quickstart", f"--model.{slot}.help"]) == 0
        assert part in capsys.readouterr().out.split()
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("mmcomponents ")


def test_the_home_folder_may_follow_an_equals_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["export", "nowhere", "--format", "mmcomponents", "--out=~/x"]) == 2
    assert "no checkpoint folder nowhere" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "model"), "--out=~/x"]) == 2
    words: list[str] = []
    monkeypatch.setattr("mmcomponents.cli.main._dispatch", lambda given: words.extend(given) or 0)
    main(["generate", "m", "--out=~/x", "--prompt=~/y", "~/z"])
    assert words == ["generate", "m", f"--out={tmp_path}/x", "--prompt=~/y", "~/z"]
