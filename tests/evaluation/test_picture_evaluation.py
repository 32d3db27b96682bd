"""Evaluation of made pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.evaluation.metrics import METRICS
from mmcomponents.evaluation.picture_evaluation import PictureEvaluation
from mmcomponents.generation import Answer
from mmcomponents.synthesis.questions import Item, Questions, Target

COLOURS = ("red", "blue", "lime")


def requests(count: int = 3) -> Questions:
    def asked(number: int) -> Item:
        colour = COLOURS[number % 3]
        return Item(f"r{number}", [{"role": "user", "content": f"Draw {colour}"}], Target((colour,)))

    return Questions("colours", [asked(number) for number in range(count)])


class Painter:
    """Makes pictures with a square of the colour that is asked for, and counts its calls."""

    def __init__(self, reasoning: str | None = None) -> None:
        self.reasoning, self.calls = reasoning, list[list[str]]()

    def __call__(self, items: Sequence[Item], images: Sequence[Sequence[Image.Image]]) -> list[Answer]:
        self.calls.append([item.key for item in items])
        found = []
        for item in items:
            picture = Image.new("RGB", (20, 20), "white")
            picture.paste(item.text.split()[-1], (5, 5, 10, 10))
            found.append(Answer(picture=picture, reasoning=self.reasoning))
        return found


def seen(pictures: Sequence[Image.Image]) -> list[str]:
    names = {(255, 0, 0): "red", (0, 0, 255): "blue", (0, 255, 0): "green"}
    return [names[picture.getpixel((7, 7))] for picture in pictures]


def test_a_reader_is_asked_about_each_picture(tmp_path: Path) -> None:
    run = PictureEvaluation(requests(), tmp_path, batch_size=2)
    done: list[tuple[int, int]] = []
    painter = Painter()
    rows = run.draw(painter, lambda *told: done.append(told))
    assert painter.calls == [["r0", "r1"], ["r2"]]
    assert done == [(0, 3), (2, 3), (3, 3)]
    scored = run.read_back(rows, seen, METRICS["exact"](), {"reader": "eyes"})
    assert [(row["read"], row["score"]) for row in scored] == [("red", 1.0), ("blue", 1.0), ("green", 0.0)]
    report = run.finish(scored, "read_back")
    assert report == json.loads((tmp_path / "report.json").read_text())
    assert (report["pictures"], round(report["score"], 4), report["refused"]) == (3, 0.6667, [])
    assert report["low"] < report["score"] < report["high"]
    assert "unread_reasoning" not in report
    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["references"] for row in written] == [[colour] for colour in COLOURS]
    assert all(row["picture"].startswith(f"pictures/{row['key']}-") for row in written)
    assert all((tmp_path / row["picture"]).is_file() for row in written)
    assert Image.open(tmp_path / "sheet.png").width > 100


def test_an_interrupted_run_makes_only_the_missing_pictures(tmp_path: Path) -> None:
    class Stopped(Painter):
        def __call__(self, items, images):
            if self.calls:
                raise KeyboardInterrupt
            return super().__call__(items, images)

    run = PictureEvaluation(requests(), tmp_path, {"seed": 0}, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        run.draw(Stopped())
    painter = Painter()
    rows = run.draw(painter)
    assert (painter.calls, len(rows)) == ([["r2"]], 3)
    (tmp_path / rows[0]["picture"]).unlink()
    run.draw(painter)
    assert painter.calls == [["r2"], ["r0"]]
    with pytest.raises(DataError, match="seed"):
        PictureEvaluation(requests(), tmp_path, {"seed": 1}).draw(painter)
    run.read_back(rows, seen, METRICS["exact"](), {"question": "Which colour?"})
    again = run.read_back(rows, lambda _: pytest.fail("read again"), METRICS["exact"](), {"question": "Which colour?"})
    assert len(again) == 3
    with pytest.raises(DataError, match="question"):
        run.read_back(rows, seen, METRICS["exact"](), {"question": "Which shape?"})


def test_other_requests_and_references_are_not_those_of_an_earlier_run(tmp_path: Path) -> None:
    def scores(run: PictureEvaluation, painter: Painter) -> list[tuple[str, float]]:
        rows = run.read_back(run.draw(painter), seen, METRICS["exact"](), {})
        return [(row["read"], row["score"]) for row in rows]

    painter = Painter()
    assert scores(PictureEvaluation(requests(2), tmp_path), painter) == [("red", 1.0), ("blue", 1.0)]
    corrected = requests(2)
    corrected.items[0] = replace(corrected.items[0], target=Target(("crimson",)))
    assert scores(PictureEvaluation(corrected, tmp_path), painter) == [("red", 0.0), ("blue", 1.0)]
    assert painter.calls == [["r0", "r1"]]
    other = requests(2)
    other.items[1] = replace(other.items[1], messages=[{"role": "user", "content": "Draw red"}])
    assert scores(PictureEvaluation(other, tmp_path), painter) == [("red", 1.0), ("red", 0.0)]
    assert painter.calls[1:] == [["r1"]]
    some = PictureEvaluation(Questions("colours", other.items[1:]), tmp_path)
    assert scores(some, painter) == [("red", 0.0)]
    assert len(painter.calls) == 2
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_things_are_looked_for_in_the_boxes_of_the_reasoning(tmp_path: Path) -> None:
    run = PictureEvaluation(requests(), tmp_path)
    rows = run.draw(Painter("<box>[[250, 250, 500, 500]]</box> (red)"))
    scored = run.in_boxes(rows)
    assert [row["score"] for row in scored] == [1.0, 0.0, 0.0]
    assert scored[0]["iou"] == [1.0]
    assert (tmp_path / rows[0]["picture"]).with_suffix(".txt").read_text().startswith("<box>")
    assert run.finish(scored, "things_in_boxes")["unread_reasoning"] == 0
    without = PictureEvaluation(requests(), tmp_path / "without")
    with pytest.raises(DataError, match="r0 was made without a reasoning text"):
        without.in_boxes(without.draw(Painter()))
    silent = PictureEvaluation(requests(1), tmp_path / "silent")
    assert silent.in_boxes(silent.draw(Painter("a red square")))[0]["score"] == 0.0


def test_requests_with_broken_images_are_skipped_and_counted(tmp_path: Path) -> None:
    def broken() -> tuple[list[Image.Image], list[list[Image.Image]]]:
        raise SampleError("the image cannot be decoded")

    asked = requests()
    asked.items.append(Item("broken", [{"role": "user", "content": "<image>\nDraw red"}], media=broken))
    with pytest.raises(DataError, match="1 of 4 requests"):
        PictureEvaluation(asked, tmp_path / "strict").draw(Painter())
    for _ in range(2):
        asked.refused.clear()
        rows = PictureEvaluation(asked, tmp_path, max_refused=0.5).draw(Painter())
        assert (len(rows), asked.refused) == (3, ["broken: the image cannot be decoded"])
    assert len((tmp_path / "pictures.jsonl").read_text().splitlines()) == 4  # settings and three pictures
    only = PictureEvaluation(Questions("one", asked.items[3:]), tmp_path / "none", max_refused=1.0)
    with pytest.raises(DataError, match="one: 0 of 1 requests have a picture"):
        only.draw(Painter())


def test_a_request_without_an_answer_cannot_be_read_back(tmp_path: Path) -> None:
    asked = requests(1)
    asked.items.append(Item("open", [{"role": "user", "content": "Draw red"}]))
    with pytest.raises(DataError, match="open cannot be compared with the answer of the reader: it has no reference"):
        PictureEvaluation(asked, tmp_path).check_references(METRICS["exact"]())
    with pytest.raises(DataError, match="r0 cannot be compared"):
        PictureEvaluation(requests(1), tmp_path).check_references(METRICS["grounding"]())
