"""The image of a model's answers."""

from __future__ import annotations

import io

import torch
from PIL import Image

from mmcomponents.evaluation.answer_sheet import Row, answer_sheet, brief, short
from mmcomponents.generation import Answer


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (60, 30), 200).save(buffer, "png")
    return buffer.getvalue()


def colours(row: Row) -> set[tuple[int, ...]]:
    found = answer_sheet([row]).getcolors(100_000)
    assert found is not None
    return {colour for _, colour in found}


def test_wrong_answers_are_red() -> None:
    wrong, right = (Row(picture(), "what?", "1", "a wrong or right answer", is_right) for is_right in (False, True))
    assert (192, 32, 32) in colours(wrong) - colours(right)


def test_answers_that_are_not_compared_are_neither_red_nor_green() -> None:
    assert not {(192, 32, 32), (0, 121, 76)} & colours(Row(picture(), "where?", "", "0.5, 0.25 (2)"))


def test_a_picture_stands_beside_the_image() -> None:
    rows = [
        Row(picture(), "draw!", "", "", None, Image.new("RGBA", (400, 1), (255, 0, 0, 255))),
        Row(picture(), "?", "", "1"),
    ]
    sheet = answer_sheet(rows)
    assert (255, 0, 0) in {colour for _, colour in sheet.getcolors(100_000) or []}
    assert sheet.width > answer_sheet(rows[1:] * 2).width


def test_a_short_text_of_a_correct_answer() -> None:
    assert short("a " * 99) == "a " * 99
    assert short(None) == ""
    assert short([0.1234567890123456, 2]) == "0.123, 2"
    assert short([1000, 2]) == "1000, 2"
    assert short(3) == "3"
    assert short([[0.5, 1]]) == brief(Answer(values=torch.tensor([[0.5, 1]]))) == "0.5, 1 (1 x 2)"
    assert short([0.25] * 99) == "0.25, 0.25, 0.25, 0.25, 0.25, 0.25, … (99)"
    assert short([[1], [2, 3]]) == "[[1], [2, 3]]"
    assert short({"a": [1] * 99}) == '{"a": [' + "1, " * 17 + "1,…"


def test_questions_without_an_image_are_shown_without_one() -> None:
    rows = [Row(None, "what?", "1", "a text")] * 2
    assert answer_sheet(rows).width < answer_sheet([rows[0], Row(picture(), "what?", "1", "a text")]).width
    assert len(colours(rows[0])) > 1


def test_a_short_text_of_an_answer() -> None:
    assert brief(Answer("yes")) == "yes"
    assert brief(Answer(picture=Image.new("L", (3, 2)))) == ""
    assert brief(Answer(values=torch.tensor([0.123456, 2.0]))) == "0.123, 2"
    assert brief(Answer(values=torch.tensor([[0.5, torch.nan]]))) == "0.5, nan (1 x 2)"
    assert brief(Answer(values=torch.arange(32).reshape(8, 4))) == "0, 1, 2, 3, 4, 5, … (8 x 4)"
    assert brief(Answer(values=torch.tensor(3.0))) == "3"
