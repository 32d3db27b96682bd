import json
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.closing import close
from mmcomponents.training import Predictions, ReferenceLogps
from mmcomponents.training.reference_logps import WrittenLogps

REPORT = {
    "exact_match": {"read": 0.925, "count": 0.5},
    "baseline": {"read": 0.1, "count": 0.6},
    "questions": {"read": 600, "count": 600},
    "train_seconds": 61.4,
}


@pytest.fixture(autouse=True)
def _called_from_the_path(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/mmcomponents"])


def printed(verb, folder, checkpoint="runs/x/last.ckpt", callbacks=(), width=140, more=(), **settings) -> str:
    console = Console(width=width, record=True)
    flags = sort_flags(["--config", "quickstart", "--config", "mine.yaml", *more])
    close(verb, folder, flags, checkpoint, console, callbacks, **settings)
    return console.export_text()


def test_a_test_run_prints_scores_baselines_and_next_commands(tmp_path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    text = printed("test", tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [["read", "92.5%", "10.0%", "+82.5", "600"], ["count", "50.0%", "60.0%", "-10.0", "600"]]
    assert "after 61 s of training" in text
    assert "answers.png" not in text
    assert "mmcomponents generate --config quickstart --config mine.yaml --ckpt_path runs/x/last.ckpt" in text


def test_flags_of_the_model_in_a_test_are_repeated(tmp_path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "recipe.yaml").touch()
    more = ["--model.sampler", "Autoregressive", "--data.test", "reading-*.tar"]
    text = printed("test", tmp_path, width=400, more=more)
    start = f"--config {tmp_path}/recipe.yaml --model.sampler Autoregressive"
    assert f"mmcomponents generate {start} --ckpt_path" in text
    assert f"mmcomponents fit {start} --model.projector" in text
    assert "--data.test" not in text
    assert "--model.sampler" not in printed("fit", tmp_path, more=more)


def test_the_next_commands_can_be_copied(tmp_path, monkeypatch) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    (tmp_path / "example.png").write_bytes(b"")
    monkeypatch.setattr("sys.argv", [".venv/bin/mmcomponents"])
    text = printed("test", tmp_path)
    assert ".venv/bin/mmcomponents generate --config quickstart" in text
    assert f"--image {tmp_path}/example.png" in text


def test_a_fit_names_its_checkpoint(tmp_path) -> None:
    text = printed("fit", tmp_path)
    assert "mmcomponents test --config quickstart --config mine.yaml --ckpt_path runs/x/last.ckpt" in text
    assert "next" not in printed("fit", tmp_path, checkpoint=None)
    text = printed("fit", tmp_path, answers="values")
    assert ("mmcomponents test" in text, "mmcomponents predict" in text) == (False, True)
    text = printed("fit", tmp_path, has_test_data=False)
    assert ("mmcomponents test" in text, "mmcomponents fit" in text) == (False, True)


def test_a_run_that_has_reached_its_end_goes_on_longer(tmp_path) -> None:
    assert "last.ckpt   # resume" in printed("fit", tmp_path)
    text = printed("fit", tmp_path, longer=["--trainer.max_steps", "20"])
    assert "last.ckpt --trainer.max_steps 20   # train longer" in text
    text = printed("fit", tmp_path, longer=None)
    assert ("mmcomponents test" in text, "mmcomponents fit" in text) == (True, False)
    assert "the last checkpoint is runs/x/last.ckpt" in printed("fit", tmp_path, longer=None, has_test_data=False)


def test_next_commands_are_quoted(tmp_path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "recipe.yaml").touch()
    (folder / "report.json").write_text(json.dumps(REPORT))
    for verb in ("fit", "test"):
        lines = printed(verb, folder, checkpoint="my runs/last.ckpt", width=400).splitlines()
        words = [shlex.split(line, comments=True) for line in lines if "--config" in line]
        assert len(words) == 2
        for line in words:
            assert line[2:4] == ["--config", f"{folder}/recipe.yaml"]
            assert "--ckpt_path" not in line or line[line.index("--ckpt_path") + 1] == "my runs/last.ckpt"


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("text", "texts in answers.jsonl"),
        ("values", "values in answers.jsonl"),
        ("picture", "pictures in the folder answers"),
    ],
)
def test_answers_without_scores_are_counted(tmp_path, kind, where) -> None:
    report = {"answers": kind, "questions": {"box": 3, "line": 4}, "train_seconds": 0.0}
    (tmp_path / "report.json").write_text(json.dumps(report))
    text = printed("test", tmp_path)
    assert f"7 answers on test data: {where}, which have no score" in text
    assert "exact match" not in text
    assert ("mmcomponents generate" in text) == (kind == "text")
    assert ("mmcomponents predict" in text) == (kind != "text")


def test_the_file_of_predictions_is_named(tmp_path) -> None:
    writer = Predictions()
    writer.written = tmp_path / "predictions.jsonl"
    assert f"wrote {tmp_path}/predictions.jsonl" in "".join(
        printed("predict", tmp_path, callbacks=[writer]).split("\n")
    )


def test_log_probabilities_of_pairs_are_reported_with_the_next_command(tmp_path) -> None:
    writer = ReferenceLogps("logps")
    writer.written = WrittenLogps(Path("logps"), 2, 40, 1, 7, -12.345, -20.0)
    predictions = Predictions()
    text = printed("predict", tmp_path, callbacks=[writer, predictions])
    assert "log-probabilities of 40 pairs to logps (2 files, 1 skipped, 7 samples that are not pairs)" in text
    assert "mean -12.35 for chosen, -20 for rejected answers" in text
    assert "mmcomponents fit --config quickstart --config mine.yaml" in text
    stored = "--model.objective.init_args.reference mmcomponents.objectives.StoredReference"
    assert f"--data.reference_logps logps {stored}" in text
    assert "data.predict" not in text
    writer.written = None
    predictions.written = Path("predictions.jsonl")
    assert "predictions.jsonl" in printed("predict", tmp_path, callbacks=[writer, predictions])
