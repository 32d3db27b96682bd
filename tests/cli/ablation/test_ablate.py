"""`mmcomponents ablate` as a whole: from the command line to the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mmcomponents.cli.main import main
from mmcomponents.demos.handwriting.builder import make_handwriting

OVER = ["--config", "quickstart", "--over", "model.projector=LinearProjector,NoProjector"]
FAST = [
    "--trainer.max_steps", "2", "--trainer.limit_test_batches", "1", "--trainer.val_check_interval", "null",
    "--data.questions.per_batch", "8", "--model.sampler.init_args.max_new_tokens", "2",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_variants_are_trained_tested_and_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_handwriting("data/handwriting", scenes=60, held_out=4, val_scenes=4)
    assert main(["ablate", *OVER, *FAST, "--out", "o"]) == 1  # one of the runs has failed
    said = capsys.readouterr()
    assert "2/2 projector=" in said.err
    assert "projector=NoProjector will fail: model.projector (the command line): no projector is called" in said.err
    assert "projector=NoProjector, seed 0 failed: mmcomponents: model.projector" in said.out
    with (folder / "o" / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["model.projector"] == "LinearProjector"
    assert 0 <= float(first["exact_match"]) <= 1
    assert (first["parameters"], first["runs"], first["failed"]) == ("1219520", "1", "0")
    assert (second["exact_match"], second["runs"], second["failed"]) == ("", "0", "1")
    run = folder / "o" / "projector=LinearProjector" / "seed-0"
    assert (run / "recipe.yaml").exists()
    assert {path.name for path in (folder / "o").iterdir()} >= {"table.md", "runs.csv", "plot.png", "plot.svg"}
    assert "0 done before" in (folder / "o" / "ablation.log").read_text()
    written = (run / "answers.jsonl").stat().st_mtime_ns
    assert main(["ablate", *OVER, *FAST, "--out", "o", "--report"]) == 1
    assert (run / "answers.jsonl").stat().st_mtime_ns == written
    state = json.loads((run / "state.json").read_text())
    assert (state["fitted"], state["tested"]) == (True, {"": {}})
    with pytest.raises(AssertionError):  # other settings are another run
        assert main(["ablate", *OVER, "--out", "o"]) == 1
    assert "has a run with other settings" in capsys.readouterr().err
    table = (folder / "o" / "table.csv").read_bytes()
    for more in ([], ["--report"]):
        other = ["--config", "quickstart", "--over", "model.position=V2PE,RoPE", *FAST, "--out", "o", *more]
        assert main(["ablate", *other]) == 2
        told = "o has the results of another ablation, over model.projector: use another --out"
        assert told in capsys.readouterr().err
    others = ["--config", "quickstart", "--over", "model.projector=MLPProjector,LlavaProjector", "--out", "o"]
    assert main(["ablate", *others, "--report"]) == 2
    assert "has the results of another ablation" in capsys.readouterr().err
    assert (folder / "o" / "table.csv").read_bytes() == table


def test_a_dry_run_shows_variants_and_what_cannot_be_built(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", *OVER, "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "1,219,520" in said
    assert "cannot be built" in said
    assert main(["ablate", "--config", "quickstart", "--over", "model.position=V2PE,RoPE", "--dry-run"]) == 0
    assert "position=RoPE: model.position.base default (base: 10000.0)" in capsys.readouterr().out
    assert "projector=NoProjector: model.projector (the command line): no projector is called" in said
    assert not (folder / "runs").exists()


def test_a_dry_run_checks_the_settings_of_tests_and_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(
        "config: quickstart\nruns: {a: {}, b: {data.image.max_tiles: 2}}\n"
        "tests: {good: {data.images.max_tiles: 2}, bad: {data.images.max_tile: 2}}\n"
    )
    assert main(["ablate", "a.yaml", "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "a, bad: unknown key data.images.max_tile (the command line); did you mean 'max_tiles'?" in said
    assert "b: unknown key data.image (the command line); did you mean 'images'?" in said
    assert "good:" not in said


def test_commands_for_a_scheduler_run_one_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", *OVER, "--seeds", "0,1", "--commands"]) == 0
    lines = (folder / "runs" / "ablations" / "quickstart" / "commands.txt").read_text().splitlines()
    assert len(lines) == 4
    assert lines[3].endswith("--out runs/ablations/quickstart --only projector=NoProjector/seed-1")
    assert "--report" in capsys.readouterr().out
    assert main(["ablate", *lines[3].split()[2:]]) == 1
    assert "failed" in (folder / "runs" / "ablations" / "quickstart" / "ablation.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--over", "model.projector=A,B"], "an ablation needs a base"),
        (["--config", "quickstart"], "nothing differs"),
        ([*OVER, "--jobs", "0"], "--jobs"),
        ([*OVER, "--seed", "0"], "no option --seed; did you mean 'seeds'?"),
        ([*OVER, "--only", "x"], "no run 'x'"),
        ([*OVER, "--report"], "no run in runs/ablations/quickstart has ended"),
        (["nothing.yaml"], "there is no ablation 'nothing.yaml'"),
        ([*OVER, "--out", "file"], "--out file cannot be made: File exists"),
        ([*OVER, "--out", "file/o", "--commands"], "--out file/o cannot be made: Not a directory"),
    ],
)
def test_wrong_commands_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("file").touch()
    assert main(["ablate", *words]) == 2
    assert message in capsys.readouterr().err
