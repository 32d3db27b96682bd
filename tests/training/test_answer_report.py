import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import tiny
from mmcomponents.component import NonFiniteError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.answer_sheet import Row
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.generation import Answer
from mmcomponents.training import AnswerReport
from mmcomponents.training.answer_report import Answered, spread


def picture(width: int = 60, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 200).save(buffer, "png")
    return buffer.getvalue()


def test_report_holds_scores_baselines_and_answers(tmp_path) -> None:
    report = AnswerReport(examples=3)
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path), world_size=1, global_rank=0)
    report.on_test_start(trainer, None)
    batch = PromptBatch(
        tiny.pack([("t", 2)]),
        questions=["what?"] * 5,
        answers=["1", "1", "2", "7", "8"],
        kinds=["count", "count", "count", "read", "read"],
        keys=["a", "b", "c", "a", "b"],
        pictures=[picture()] * 5,
    )
    report.on_test_batch_end(
        trainer, None, {"answers": [Answer(text) for text in ("1", " 1\n", "1", "7", "7")]}, batch, 0
    )
    report.load_state_dict({"train_seconds": 12.34})
    report.on_test_end(trainer, None)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "exact_match": {"count": pytest.approx(2 / 3), "read": 0.5},
        "baseline": {"count": pytest.approx(2 / 3), "read": 0.5},
        "questions": {"count": 3, "read": 2},
        "train_seconds": 12.3,
    }
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [r["is_right"] for r in rows] == [True, True, False, True, False]
    assert rows[4]["prediction"] == "7"
    with Image.open(tmp_path / "answers.png") as sheet:
        assert sheet.width > 500


@pytest.mark.parametrize(
    ("asked", "number", "shown"),
    [
        ([("a", "count"), ("b", "count"), ("c", "count"), ("d", "count")], 3, "abc"),
        ([("a", "count"), ("b", "count"), ("c", "read"), ("d", "read")], 3, "acb"),
        ([("a", "count"), ("a", "read"), ("b", "count"), ("b", "read")], 4, "ab"),
        ([], 3, ""),
    ],
)
def test_the_image_shows_kinds_in_turn_and_each_sample_once(
    asked: list[tuple[str, str]], number: int, shown: str
) -> None:
    examples = [
        (Answered(key, kind, "?", "1", "1", "text", True), Row(None, key, "1", "1", True)) for key, kind in asked
    ]
    assert "".join(row.question for row in spread(examples, number)) == shown


def test_the_clock_goes_on_after_a_resume() -> None:
    first = AnswerReport()
    first.on_train_start(None, None)
    first.on_train_end(None, None)
    state = first.state_dict()
    assert state["train_seconds"] > 0
    second = AnswerReport()
    second.load_state_dict(state)
    second.on_train_start(None, None)
    assert second.state_dict()["train_seconds"] > state["train_seconds"]


@pytest.mark.parametrize(
    ("answer", "prediction", "right"),
    [("3 7", "3 7", True), ("3 7", " 3 7\n", True), ("1 \n2", "1\n2", True), ("3 7", "3  7", False), ("3", "", False)],
)
def test_exact_match(answer, prediction, right) -> None:
    assert exact_match(answer, prediction) is right


def batch_of(answers: list[Any]) -> PromptBatch:
    count = len(answers)
    keys = [f"s/{number}" for number in range(count)]
    return PromptBatch(tiny.pack([("t", 2)]), ["where?"] * count, answers, ["box"] * count, keys, [picture()] * count)


def run_report(folder, answers: list[Answer], right: list[Any] | None = None) -> dict[str, Any]:
    report = AnswerReport()
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(folder), world_size=1, global_rank=0)
    report.on_test_start(trainer, None)
    report.on_test_batch_end(trainer, None, {"answers": answers}, batch_of(right or [""] * len(answers)), 0)
    report.on_test_end(trainer, None)
    return json.loads((folder / "report.json").read_text())


def test_values_are_written_without_scores(tmp_path) -> None:
    report = run_report(tmp_path, [Answer(values=torch.tensor([[0.5, 1.0]])), Answer(values=torch.zeros(0, 2))])
    assert report == {"answers": "values", "questions": {"box": 2}, "train_seconds": 0.0}
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == [[[0.5, 1.0]], []]
    assert rows[0].keys() == {"key", "kind", "question", "answer", "prediction"}


def test_texts_are_not_compared_with_values(tmp_path) -> None:
    assert run_report(tmp_path, [Answer("0.5")], [[0.5]])["answers"] == "text"
    (row,) = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert row == {"key": "s/0", "kind": "box", "question": "where?", "answer": [0.5], "prediction": "0.5"}


def test_values_that_json_cannot_hold_are_an_error(tmp_path) -> None:
    with pytest.raises(NonFiniteError, match=r"values for s/1 are NaN or infinite, .*: answers.jsonl is not written"):
        run_report(tmp_path, [Answer(values=torch.zeros(1)), Answer(values=torch.tensor(torch.nan))])
    assert not (tmp_path / "answers.jsonl").exists()


def test_pictures_are_written_beside_their_rows(tmp_path) -> None:
    report = run_report(tmp_path, [Answer(picture=Image.new("RGB", (8, 6), colour)) for colour in ("red", "blue")])
    assert report["answers"] == "picture"
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == ["answers/s_0-0-0.png", "answers/s_1-0-1.png"]
    with Image.open(tmp_path / rows[1]["prediction"]) as made:
        assert (made.size, made.getpixel((0, 0))) == ((8, 6), (0, 0, 255))
    assert (tmp_path / "answers.png").is_file()
