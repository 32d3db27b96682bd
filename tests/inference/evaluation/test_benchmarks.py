from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import av
import pytest
from PIL import Image

from mmcomponents.data import ShardWriter
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.inference.evaluation import open_benchmark
from mmcomponents.inference.evaluation.benchmarks import LETTER_INSTRUCTION


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def coded(size: tuple[int, int] = (8, 6)) -> str:
    return base64.b64encode(png(size)).decode()


def tsv(path: Path, rows: list[dict[str, str]]) -> str:
    """Writes a table as pandas does: quotes where a cell needs them, columns of the first row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def sizes(item) -> list[tuple[int, int]]:
    images, videos = item.media()
    assert videos == []
    return [image.size for image in images]


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
    assert second.media is first.media  # so that it is encoded once
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
    with pytest.raises(SampleError, match=r"there is no image file .*c\.png"):  # when its turn comes
        sizes(found.items[2])
    with pytest.raises(DataError, match="no folder of images"):
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
        ["odd.tsv row 3", "its index '0' is that of another row"],
        ["odd.tsv index 2", "the question is empty"],
        ["odd.tsv index 3", "the answer is empty"],
        ["odd.tsv index 4", "its image is that of row '77', and there is no such row"],
        ["odd.tsv index 5", "it has no image"],
        ["odd.tsv index 6", "its image is that of row '5', which has none"],
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


def test_no_benchmark(tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.csv").write_text("index,question")
    (tmp_path / "latin.tsv").write_bytes(b"index\timage\tquestion\tanswer\n0\t\xff\xfe\t?\t1\n")
    for name, complaint in (
        ("gone.tsv", "there is no benchmark file"),
        ("empty.tsv", "is empty"),
        ("empty.jsonl", "has no column 'question'; its columns are: none"),
        ("text.csv", "it has to be a .tsv, a .jsonl, or shards"),
        ("gone-*.tar", "no shard matches"),
        ("latin.tsv", "is no table with tabs: line 2"),
    ):
        with pytest.raises(DataError, match=complaint):
            open_benchmark(str(tmp_path / name))


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
    assert [line.split(": ", 1)[0] for line in found.refused] == [f"some.jsonl line {n}" for n in range(4, 12)]
    path.write_text('{"id": 1, "qestion": "?", "answer": "1"}\n')
    with pytest.raises(DataError, match="no column 'question'; did you mean 'qestion'"):
        open_benchmark(str(path))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    with ShardWriter(tmp_path / "notes", "test") as writer:
        turns = [("<image>\nRead.", "12"), ("Add.", "3")]
        messages = [
            {"role": role, "content": text}
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        system = {"role": "system", "content": "Be brief."}
        writer.write("one", {"messages": [system, *messages], "kinds": ["read", "add"]}, [("png", png((9, 9)))])
        writer.write("two", {"text": "A document."})
    return str(tmp_path / "notes" / "test-*.tar")


def test_shards_ask_each_question_by_itself(shards: str) -> None:
    found = open_benchmark(shards)
    assert found.name == "notes-test"
    assert found.refused == ["test-000000/two: a document asks no questions whose answers are known"]
    read, add = found.items
    assert (read.key, read.category, read.target.references) == ("test-000000/one#0", "read", ("12",))
    assert (add.category, add.text) == ("add", "Add.")
    assert [m["role"] for m in add.messages] == ["system", "user"]
    assert add.media is read.media
    assert sizes(add) == [(9, 9)]


def test_some_of_the_questions(shards: str) -> None:
    found = open_benchmark(shards)
    assert [item.category for item in found.narrow(["add"]).items] == ["add"]
    some = found.narrow(limit=1)
    assert [item.category for item in some.items] == ["read"]
    assert some.digest() == found.digest() == found.narrow(["add"]).narrow(limit=1).digest()
    assert some.digest("Think.") != found.digest()
    with pytest.raises(DataError, match="no question of the kind 'ad'; there are: read, add"):
        found.narrow(["ad"])


def mp4(frames: int) -> bytes:
    """A black and a white half, so that frames can be told apart."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for number in range(frames):
            level = 255 * (2 * number >= frames)
            out.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), (level,) * 3))))
        out.mux(stream.encode())
    return file.getvalue()


def test_a_shards_video_is_shown_as_its_frames_among_the_images(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "<video>\nThen <image>. What?"},
        {"role": "assistant", "content": "light"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "yes"},
    ]
    with ShardWriter(tmp_path, "clips") as writer:
        writer.write("one", {"messages": messages}, [("0.png", png((9, 9))), ("1.mp4", mp4(12))])
    found = open_benchmark(str(tmp_path / "clips-*.tar"))
    assert found.refused == []
    first, second = found.items
    shown = sizes(first)
    assert shown[-1] == (9, 9)
    assert set(shown[:-1]) == {(32, 32)}
    assert (
        len(shown) == first.messages[-1]["content"].count("<image>") == second.messages[-1]["content"].count("<image>")
    )
    levels = [image.getpixel((16, 16))[0] for image in first.media()[0][:-1]]
    assert levels[0] < 40
    assert levels[-1] > 215


def test_a_question_sees_the_images_up_to_its_turn(tmp_path: Path) -> None:
    turns = ["<image>\nWhat?", "a cat", "And <image>?", "a dog"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    with ShardWriter(tmp_path, "two") as writer:
        writer.write("one", {"messages": messages}, [("0.png", png((9, 9))), ("1.png", png((5, 5)))])
    first, second = open_benchmark(str(tmp_path / "two-*.tar")).items
    assert sizes(first) == [(9, 9)]
    assert sizes(second) == [(9, 9), (5, 5)]
    assert second.messages[-1]["content"] == "<image>\nAnd <image>?"
