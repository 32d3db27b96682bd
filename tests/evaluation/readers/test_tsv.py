from __future__ import annotations

import csv
from pathlib import Path

import pytest

from evaluation.readers.question_files import coded, png, sizes, tsv
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.evaluation import open_benchmark, read_questions
from mmcomponents.evaluation.benchmarks import LETTER_INSTRUCTION


def test_a_tsv(tmp_path: Path) -> None:
    rows = [
        {"index": "3", "image": coded(), "hint": "Look up.", "question": 'What "thing"\nis this?\tSay.',
         "A": "a cat", "B": "a dog", "C": "", "answer": "B", "category": "animals", "split": "dev"},
        {"index": "4", "image": "3", "question": "And this?", "A": "nan",
         "answer": "['cat', 'a cat']", "split": "test"},
        {"index": "5", "image": str([coded((3, 3)), coded((4, 4))]), "question": "Both?", "answer": "no"},
    ]  # fmt: skip
    found = open_benchmark(tsv(tmp_path / "pets.tsv", rows))
    assert (found.name, found.refused, [item.key for item in found.items]) == ("pets", [], ["3", "4", "5"])
    first, second, third = found.items
    assert first.messages == [{"role": "user", "content": '<image>\nLook up.\nWhat "thing"\nis this?\tSay.'}]
    assert (first.target.options, first.target.references, first.category) == (
        {"A": "a cat", "B": "a dog"},
        ("B",),
        "animals",
    )
    assert first.prompt()[-1]["content"].endswith(f"Say.\nA. a cat\nB. a dog\n{LETTER_INSTRUCTION}")
    assert first.prompt("Think.")[-1]["content"].endswith("B. a dog\nThink.")
    assert second.prompt()[-1]["content"] == "<image>\nAnd this?"
    assert second.target.references == ("cat", "a cat")
    assert second.media is first.media  # encoded once
    assert [sizes(item) for item in found.items] == [[(8, 6)], [(8, 6)], [(3, 3), (4, 4)]]
    assert third.messages[0]["content"] == "<image>\n<image>\nBoth?"
    assert third.text == "Both?"
    dev = open_benchmark(str(tmp_path / "pets.tsv"), split="dev")
    assert [item.key for item in dev.items] == ["3"]


def test_a_tsv_with_paths(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, side in (("a.png", 5), ("b.png", 7)):
        (tmp_path / "pictures" / name).write_bytes(png((side, side)))
    rows = [
        {"index": "0", "image_path": "a.png", "question": "One?", "answer": "1"},
        {"index": "1", "image_path": "['a.png', 'b.png']", "question": "Compare <image> and <image>.", "answer": "2"},
        {"index": "2", "image_path": "c.png", "question": "Gone?", "answer": "3"},
    ]
    found = open_benchmark(tsv(tmp_path / "files.tsv", rows), tmp_path / "pictures")
    assert [sizes(item) for item in found.items[:2]] == [[(5, 5)], [(5, 5), (7, 7)]]
    assert found.items[1].messages[0]["content"] == "Compare <image> and <image>."
    with pytest.raises(SampleError, match=r"there is no file 'c\.png' below the root"):  # images are read lazily
        sizes(found.items[2])
    with pytest.raises(DataError, match="image folder not found"):
        open_benchmark(str(tmp_path / "files.tsv"), tmp_path / "nowhere")


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    rows = [{"index": "0", "image": "bm90IGFuIGltYWdl" * 9, "question": "Broken?", "answer": "1"}]
    (item,) = open_benchmark(tsv(tmp_path / "broken.tsv", rows)).items
    with pytest.raises(SampleError, match="not an image"):
        item.media()


@pytest.mark.parametrize("gone", ["index", "question", "answer", "image"])
def test_a_missing_column_is_one_clear_error(tmp_path: Path, gone: str) -> None:
    row = {"index": "0", "image": coded(), "question": "?", "answer": "1"}
    path = tsv(tmp_path / "short.tsv", [{k: v for k, v in row.items() if k != gone} | {"kategory": "x"}])
    with pytest.raises(DataError) as told:
        open_benchmark(path)
    message = str(told.value)
    assert message.startswith(f"{path} has no column '{gone}'")
    assert "its columns are: " in message
    assert "kategory" in message
    assert "\n" not in message


def test_a_missing_column_names_the_near_one(tmp_path: Path) -> None:
    path = tmp_path / "near.tsv"
    path.write_text("index\timage\tquestion\tanswr\n")
    with pytest.raises(DataError, match=r"no column 'answer'; did you mean 'answr'\?; its columns are"):
        open_benchmark(str(path))


def test_broken_rows_are_named_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "odd.tsv"
    image = coded()
    lines = ["index\timage\tquestion\tanswer", f"0\t{image}\tfine\t1", "1\tonly", f"0\t{image}\ttwice\t1"]
    lines += [f"2\t{image}\t\t1", f"3\t{image}\tno answer\t", "4\t77\tno such row\t1", "5\t\tno image\t1"]
    lines += ["6\t5\timage of a row without one\t1"]
    path.write_text("\n".join(lines) + "\n")
    found = open_benchmark(str(path))
    assert [item.key for item in found.items] == ["0"]
    reasons = [line.split(": ", 1) for line in found.refused]
    assert reasons == [
        ["odd.tsv row 2", "2 cells, 4 columns"],
        ["odd.tsv row 3", "duplicate index '0'"],
        ["odd.tsv index 2", "the question is empty"],
        ["odd.tsv index 3", "the answer is empty"],
        ["odd.tsv index 4", "its image refers to row '77', which does not exist"],
        ["odd.tsv index 5", "the row has no image"],
        ["odd.tsv index 6", "its image refers to row '5', which has no image"],
    ]
    with pytest.raises(
        DataError, match=r"odd: 7 of 8 questions cannot be used, more than max_refused 0\.5: odd\.tsv row 2"
    ):
        found.check(0.5)
    found.check(0.9)


def test_a_large_cell_leaves_the_limit_of_csv_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    rows = [{"index": "0", "image": "A" * (before + 10), "question": "?", "answer": "1"}]
    assert len(open_benchmark(tsv(tmp_path / "large.tsv", rows)).items) == 1
    assert csv.field_size_limit() == before


def test_a_tsv_to_draw_answers_to(tmp_path: Path) -> None:
    rows = [
        {"index": "3", "image": coded(), "question": "What?", "A": "a cat", "B": "a dog", "answer": "['A', 'cat']"},
        {"index": "4", "image": "3", "question": "And this?", "answer": "B"},
    ]
    path = tsv(tmp_path / "pets.tsv", rows)
    first, second = read_questions([path]).items
    assert (first.key, second.key) == ("pets/3", "pets/4")
    assert first.question().messages[-1]["content"] == f"<image>\nWhat?\nA. a cat\nB. a dog\n{LETTER_INSTRUCTION}"
    assert (first.answer, second.answer) == (["A", "cat"], "B")
    assert first.files() == second.files() == [("png", png())]
    (told, _) = read_questions([path], answers=False, instruction="Think.").items
    assert told.messages[-1]["content"] == "<image>\nWhat?\nA. a cat\nB. a dog\nThink."
    assert told.answer is None
