import json
from pathlib import Path

import pytest
from rich.console import Console

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.closing import close
from mmcomponents.training import ReferenceLogps
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


def printed(verb, folder, result=None, checkpoint="runs/x/last.ckpt", callbacks=()) -> str:
    console = Console(width=140, record=True)
    flags = sort_flags(["--config", "quickstart", "--config", "mine.yaml"])
    close(verb, folder, flags, result, checkpoint, console, callbacks)
    return console.export_text()


def test_a_test_run_prints_scores_baselines_and_next_commands(tmp_path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    text = printed("test", tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [["read", "92.5%", "10.0%", "+82.5", "600"], ["count", "50.0%", "60.0%", "-10.0", "600"]]
    assert "after 61 s of training" in text
    assert "answers.png" not in text
    assert "mmcomponents generate --config quickstart --config mine.yaml --ckpt_path runs/x/last.ckpt" in text


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


def test_predictions_are_written(tmp_path) -> None:
    rows = [{"key": "a", "answer": "1"}, {"key": "b", "answer": "ä"}, {"key": "c", "answer": "3"}]
    text = printed("predict", tmp_path / "new", result=[[rows[0], rows[1]], [rows[2]]])
    path = tmp_path / "new" / "predictions.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert "predictions.jsonl" in text


def test_log_probabilities_of_pairs_are_reported_with_the_next_command(tmp_path) -> None:
    writer = ReferenceLogps("logps")
    writer.written = WrittenLogps(Path("logps"), 2, 40, 1, 7, -12.345, -20.0)
    text = printed("predict", tmp_path, result=[[{"key": "a", "chosen": -1.0, "rejected": -2.0}]], callbacks=[writer])
    assert "log-probabilities of 40 pairs to logps (2 files, 1 skipped, 7 samples that are not pairs)" in text
    assert "mean -12.35 for chosen, -20 for rejected answers" in text
    assert "mmcomponents fit --config quickstart --config mine.yaml" in text
    stored = "--model.objective.init_args.reference mmcomponents.objectives.StoredReference"
    assert f"--data.reference_logps logps {stored}" in text
    assert "data.predict" not in text
    assert not (tmp_path / "predictions.jsonl").exists()
    writer.written = None
    assert "predictions.jsonl" in printed("predict", tmp_path, result=[[{"key": "a"}]], callbacks=[writer])
