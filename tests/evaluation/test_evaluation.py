from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.evaluation import Benchmark, Evaluation, Item, interval
from mmcomponents.evaluation.metrics import BLEU, ExactMatch, MultipleChoice, Target
from mmcomponents.evaluation.plot import draw_accuracy
from mmcomponents.evaluation.selectors import BestOfN, First, Oracle, SelfConsistency
from mmcomponents.synthesis.rollout import Answers, Sampling

SAMPLES = 4
SAID = {  # the answer is the key's number
    "q0": ["0", "1", "1", "1"],
    "q1": ["9", "1", "1", "2"],
    "q2": ["8", "7", "2", "7"],
    "q3": ["3", "3", "5", "5"],
}
LIKED = {"q0": [0.2, 0.9, 0.1, 0.1], "q1": [0.1, 0.8, 0.8, 0.3], "q2": [0.5, 0.4, 0.6, 0.1], "q3": [0.9, 0.1, 0.1, 0.1]}


def item(key: str) -> Item:
    asked = [{"role": "user", "content": f"Which is {key}?"}]
    return Item(key, asked, Target((key[1:],)), "even" if int(key[1:]) % 2 == 0 else "odd")


class Scripted:
    """Returns fixed answers; raises KeyboardInterrupt after some questions."""

    def __init__(self, stop_after: int | None = None, refused: tuple[str, ...] = ()) -> None:
        self.stop_after, self.refused = stop_after, refused
        self.asked: list[str] = []
        self.prompts: list[str] = []

    def __call__(self, questions, *, progress, done, refuse):
        for number, question in enumerate(reversed(questions)):
            if question.key in done:
                continue
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(question.key)
            self.prompts.append(question.messages[-1]["content"])
            if question.key in self.refused:
                refuse(question, SampleError("no such image"))
                continue
            yield question, Answers(SAID[question.key], [3] if question.key == "q1" else [])
            if progress is not None:
                progress(number + 1, len(questions))


class Likes:
    """Returns fixed scores."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, solutions, *, refuse):
        count = dict.fromkeys(SAID, 0)
        scores = []
        for solution in solutions:
            key = solution.question.key
            self.seen.append((solution.question.messages[-1]["content"], solution.response))
            scores.append([LIKED[key][count[key]]] * 2)
            count[key] += 1
        return scores


def evaluation(folder: Path, **changes) -> Evaluation:
    settings = {
        "benchmark": Benchmark("count", [item(key) for key in SAID]),
        "metric": ExactMatch(),
        "selectors": {
            "first": First(),
            "self_consistency": SelfConsistency(),
            "best_of_n_prm": BestOfN("process"),
            "oracle": Oracle(),
        },
        "folder": folder,
        "sampling": Sampling(SAMPLES, 8, 0.7, greedy_first=True),
        "instruction": "Think.",
        "model": {"name": "model", "weights": "abc"},
    }
    return Evaluation(**(settings | changes))


def values(report: dict, selector: str) -> list[float]:
    return [figure["value"] for figure in report["figures"][selector].values()]


def whole(folder: Path) -> dict:
    run, likes = evaluation(folder), Likes()
    run.draw(Scripted())
    run.score("process", likes, {"name": "critic", "weights": "def"})
    return run.finish()


def test_figures_by_selector_and_n(tmp_path: Path) -> None:
    report = whole(tmp_path)
    assert values(report, "first") == [0.5] * 4
    # q1 is right from the second candidate on, q2 from the third
    assert values(report, "oracle") == [0.5, 0.75, 1.0, 1.0]
    # with the third candidate, the vote of q0 becomes wrong and that of q1 right
    assert values(report, "self_consistency") == [0.5, 0.5, 0.5, 0.5]
    assert values(report, "best_of_n_prm") == [0.5, 0.5, 0.75, 0.75]
    assert (report["questions"], report["samples"], report["with_an_answer"]) == (4, 4, 1.0)
    assert report["cut"] == 1 / 16
    assert report["by_category"]["odd"]["questions"] == 2
    assert report["by_category"]["odd"]["figures"]["oracle"]["2"]["value"] == 1.0
    figure = report["figures"]["oracle"]["2"]
    assert 0 < figure["low"] < 0.75 < figure["high"] < 1
    assert report == json.loads((tmp_path / "report.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == list(SAID)  # independent of the order of generation
    assert lines[1] | {"scores": None} == {
        "key": "q1",
        "category": "odd",
        "question": "Which is q1?",
        "reference": ["1"],
        "candidates": ["9", "1", "1", "2"],
        "answers": ["9", "1", "1", "2"],
        "marks": [0.0, 1.0, 1.0, 0.0],
        "scores": None,
        "chosen": {
            "first": [0, 0, 0, 0],
            "self_consistency": [0, 0, 1, 1],
            "best_of_n_prm": [0, 1, 1, 1],
            "oracle": [0, 1, 1, 1],
        },
        "right": {"first": 0.0, "self_consistency": 1.0, "best_of_n_prm": 1.0, "oracle": 1.0},
    }
    with Image.open(tmp_path / "accuracy.png") as picture:
        assert picture.width >= 800


def test_a_stopped_run_goes_on_and_gives_the_same_files(tmp_path: Path) -> None:
    whole(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluation(tmp_path / "stopped").draw(Scripted(stop_after=2))
    moved = {"name": "elsewhere", "weights": "abc"}  # the path of a model may change
    run, again, likes = evaluation(tmp_path / "stopped", model=moved), Scripted(), Likes()
    run.draw(again)
    assert again.asked == ["q1", "q0"]
    known = {"name": "elsewhere", "weights": "def"}
    run.score("process", likes, known)
    assert len(likes.seen) == 16
    assert likes.seen[0] == ("Which is q0?\nThink.", "0")  # the critic sees the model's prompt
    run.score("process", likes, known)
    assert len(likes.seen) == 16  # nothing is scored twice
    run.finish()
    for name in ("results.jsonl", "accuracy.png"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("stopped", "whole")]
    for report in reports:
        del report["seconds"], report["settings"]["critics"], report["settings"]["model"]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    "change", [{"model": {"weights": "xyz"}}, {"instruction": "Do."}, {"sampling": Sampling(2, 8, 0.7)}]
)
def test_candidates_of_another_run_are_not_taken(tmp_path: Path, change: dict) -> None:
    evaluation(tmp_path).draw(Scripted())
    with pytest.raises(DataError, match="other settings"):
        evaluation(tmp_path, **change).draw(Scripted())


def test_scores_of_another_critic_are_not_taken(tmp_path: Path) -> None:
    whole(tmp_path)
    with pytest.raises(DataError, match="other settings"):
        evaluation(tmp_path).score("process", Likes(), {"weights": "ghi"})


def test_more_questions_go_on_from_fewer(tmp_path: Path) -> None:
    every = Benchmark("count", [item(key) for key in SAID])
    evaluation(tmp_path, benchmark=every.narrow(limit=2)).draw(Scripted())
    again = Scripted()
    evaluation(tmp_path, benchmark=every).draw(again)
    assert again.asked == ["q3", "q2"]


def test_questions_that_cannot_be_asked_are_counted_and_named(tmp_path: Path) -> None:
    plain = {"selectors": {"first": First()}}
    run = evaluation(tmp_path, max_refused=0.25, **plain)
    run.draw(Scripted(refused=("q2",)))
    report = run.finish()
    assert report["questions"] == 3
    assert report["refused"] == ["q2: no such image"]
    with pytest.raises(
        DataError, match=r"2 of 4 questions cannot be evaluated, more than max_refused 0\.25: q2, q1: no such"
    ):
        evaluation(tmp_path / "more", max_refused=0.25, **plain).draw(Scripted(refused=("q1", "q2")))
    with pytest.raises(DataError, match=r"4 of 4 questions cannot be evaluated.*q0, q1, q2, …: the answer '0' is"):
        evaluation(tmp_path / "odd", metric=MultipleChoice())
    with pytest.raises(DataError, match="no question has candidates"):
        evaluation(tmp_path / "none").finish()


def test_solutions_that_cannot_be_judged_are_chosen_last(tmp_path: Path) -> None:
    def likes(solutions, *, refuse):
        refuse(solutions[0], SampleError("too long"))
        return [[], *([0.1] for _ in solutions[1:])]

    run = evaluation(tmp_path)
    run.draw(Scripted())
    run.score("process", likes, {})
    report = run.finish()
    assert report["unjudged"] == ["process, q0: too long"]
    assert run.results()[0].chosen["best_of_n_prm"] == [0, 1, 1, 1]


def test_a_figure_of_all_responses_has_no_interval(tmp_path: Path) -> None:
    run = evaluation(tmp_path, metric=BLEU(), selectors={"first": First()})
    run.draw(Scripted())
    report = run.finish()
    assert list(report["figures"]["first"]["1"]) == ["value"]
    assert report["metric"] == "BLEU-4"


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    run = evaluation(tmp_path)
    run.draw(Scripted(), lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
    told.clear()
    run.score("process", Likes(), {}, lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (4, 4)]


def test_wilsons_interval() -> None:
    # 81 of 263, as in Newcombe, Statistics in Medicine 17 (1998), table I: 0.2553 to 0.3662
    assert interval([1.0] * 81 + [0.0] * 182) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval([0.0] * 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    low, high = interval([0.25, 0.75] * 50)
    half = 1.959964 * math.sqrt(0.25**2 * 100 / 99 / 100)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    with pytest.raises(ValueError, match="one question"):
        interval([])


@pytest.mark.parametrize("count", [1, 7, 9, 10, 12, 13, 25, 35, 1319])
@pytest.mark.parametrize("mark", [0.0, 1.0])
def test_none_right_and_all_right(count: int, mark: float) -> None:
    low, high = interval([mark] * count)
    assert 0 <= low <= mark <= high <= 1
    assert high - low > 0


@pytest.mark.parametrize("count", [7, 20, 9])
def test_a_picture_of_none_right_and_all_right(tmp_path: Path, count: int) -> None:
    figures = {}
    for name, mark in (("first", 0.0), ("oracle", 1.0)):
        low, high = interval([mark] * count)
        figures[name] = {"1": {"value": mark, "low": low, "high": high}}
    draw_accuracy(figures, tmp_path / "a.png", "title", "metric")
    assert (tmp_path / "a.png").stat().st_size > 0
