from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.readers.question_files import png, sizes, write_lines
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.evaluation import open_benchmark, read_questions


def test_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    lines = [
        {
            "id": 7,
            "image": "a.png",
            "question": "What?",
            "answer": ["a", "b"],
            "category": "x",
            "options": ["cat", "dog"],
        },
        {"index": "eight", "images": ["a.png", "a.png"], "question": "<image> or <image>?", "answer": 3},
        {"question": "Text alone?", "answer": "yes", "options": {"A": "yes", "B": "no"}},
        {"id": 7, "question": "Twice?", "answer": "1"},
        {"id": 9, "question": "No answer?"},
        {"id": 10, "image": "b.png", "question": "No image?", "answer": "1"},
        {"id": 11, "question": 5, "answer": "1"},
        {"id": 12, "question": "?", "answer": {"a": 1}},
        {"id": 13, "question": "?", "answer": "1", "options": {"one": "1"}},
        [1],
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n\n")
    found = open_benchmark(str(path))
    assert [item.key for item in found.items] == ["7", "eight", "3"]
    first, second, third = found.items
    assert (first.target.references, dict(first.target.options), first.category) == (
        ("a", "b"),
        {"A": "cat", "B": "dog"},
        "x",
    )
    assert sizes(second) == [(8, 6)] * 2
    assert second.target.references == ("3",)
    assert third.media is None
    assert [line.split(": ", 1)[0] for line in found.refused] == [f"some.jsonl:{n}" for n in range(4, 12)]
    path.write_text('{"id": 1, "qestion": "?", "answer": "1"}\n')
    with pytest.raises(DataError, match="no column 'question'; did you mean 'qestion'"):
        open_benchmark(str(path))


def test_jsonl_to_draw_answers_to(tmp_path) -> None:
    red = png((4, 4), "red")
    (tmp_path / "red.png").write_bytes(red)
    path = write_lines(
        tmp_path / "q.jsonl",
        {"image": "red.png", "question": "<image>\nHow many?", "answer": 3, "source": "count"},
        {"question": "How many?", "answer": "two"},
        {"images": ["red.png", "gone.png"], "question": "<image><image>?", "answer": "x"},
    )
    found = read_questions([path])
    first, second = found.items
    assert (first.key, first.answer, first.source, first.names) == ("q/0000001", "3", "count", ("red.png",))
    assert first.messages == [{"role": "user", "content": "<image>\nHow many?"}]
    ((image,), videos) = first.media()
    assert (image.getpixel((0, 0)), videos) == ((255, 0, 0), [])
    assert first.files() == [("png", red)]
    assert (second.media, second.files, second.answer) == (None, None, "two")
    assert found.refused == [f"q.jsonl:3: image file not found: {tmp_path / 'gone.png'}"]
    assert [one.answer for one in read_questions([path], answers=False, limit=2).items] == [None, None]
    (tmp_path / "red.png").unlink()
    with pytest.raises(SampleError, match=r"there is no file 'red\.png' below the root"):  # images are read lazily
        first.media()


def test_what_is_wrong_with_a_line_is_named(tmp_path) -> None:
    path = write_lines(
        tmp_path / "q.jsonl",
        {"prompt": "How many?", "answer": "3"},
        {"question": "How many?"},
        {"question": " ", "answer": "3"},
        [],
        {"question": "How many?", "answer": "3", "image": 5},
    )
    (tmp_path / "q.jsonl").write_text((tmp_path / "q.jsonl").read_text() + "\n{half")
    found = read_questions([path])
    assert found.items == []
    assert found.refused[:4] == [
        'q.jsonl:1: no "question"; its keys are: "prompt", "answer"',
        'q.jsonl:2: no "answer"; its keys are: "question"',
        "q.jsonl:3: the question is empty",
        "q.jsonl:4: wrong JSON: expected an object, got list",
    ]
    assert 'q.jsonl:5: "image" is neither a path' in found.refused[4]
    assert "q.jsonl:7: wrong JSON" in found.refused[5]
