import json

import pytest
from rich.console import Console

from mmcomponents.cli.closing import close
from mmcomponents.cli.flags import sort_flags

REPORT = {
    "exact_match": {"read": 0.925, "count": 0.5},
    "baseline": {"read": 0.1, "count": 0.6},
    "questions": {"read": 600, "count": 600},
    "train_seconds": 61.4,
}


@pytest.fixture(autouse=True)
def _called_from_the_path(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/mmcomponents"])


def printed(verb, folder, result=None, checkpoint="runs/x/last.ckpt") -> str:
    console = Console(width=140, record=True)
    close(verb, folder, sort_flags(["--config", "quickstart", "--config", "mine.yaml"]), result, checkpoint, console)
    return console.export_text()


def test_a_test_run_shows_scores_beside_baselines_and_what_to_do_next(tmp_path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    text = printed("test", tmp_path)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows == [["read", "92.5%", "10.0%", "+82.5", "600"], ["count", "50.0%", "60.0%", "-10.0", "600"]]
    assert "after 61 s of training" in text
    assert "answers.png" not in text
    assert "mmcomponents generate --config quickstart --config mine.yaml --ckpt_path runs/x/last.ckpt" in text


def test_the_next_commands_work_as_they_stand(tmp_path, monkeypatch) -> None:
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
