import io
import json
from types import SimpleNamespace

import pytest
from PIL import Image

import tiny
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.evaluation.metrics.exact_match import exact_match
from mmcomponents.training import AnswerReport
from mmcomponents.training.answer_sheet import answer_sheet


def picture(width: int = 60, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height), 200).save(buffer, "png")
    return buffer.getvalue()


def test_report_holds_scores_baselines_and_answers(tmp_path) -> None:
    report = AnswerReport(examples=3)
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    report.on_test_start(trainer, None)
    batch = PromptBatch(
        tiny.pack([("t", 2)]),
        questions=["what?"] * 5,
        answers=["1", "1", "2", "7", "8"],
        kinds=["count", "count", "count", "read", "read"],
        keys=["a", "b", "c", "a", "b"],
        pictures=[picture()] * 5,
    )
    report.on_test_batch_end(trainer, None, {"answers": ["1", " 1\n", "1", "7", "7"]}, batch, 0)
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


def test_wrong_answers_are_red() -> None:
    def colours(is_right: bool) -> set[tuple[int, ...]]:
        sheet = answer_sheet([(picture(), "what?", "1", "a wrong or right answer", is_right)])
        return {colour for _, colour in sheet.getcolors(100_000)}

    assert (192, 32, 32) in colours(False) - colours(True)


@pytest.mark.parametrize(
    ("answer", "prediction", "right"),
    [("3 7", "3 7", True), ("3 7", " 3 7\n", True), ("1 \n2", "1\n2", True), ("3 7", "3  7", False), ("3", "", False)],
)
def test_exact_match(answer, prediction, right) -> None:
    assert exact_match(answer, prediction) is right
