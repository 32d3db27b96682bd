from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.shards import open_shard
from mmcomponents.inference.questions import read_questions


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return file.getvalue()


def write_lines(path, *records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_jsonl(tmp_path) -> None:
    (tmp_path / "red.png").write_bytes(png("red"))
    path = write_lines(
        tmp_path / "q.jsonl",
        {"image": "red.png", "question": "<image>\nHow many?", "answer": 3, "source": "count"},
        {"question": "How many?", "answer": "two"},
        {"images": ["red.png", "gone.png"], "question": "<image><image>?", "answer": "x"},
    )
    first, second, third = read_questions([path]).asked
    assert (first.question.key, first.reference, first.source, first.names) == ("q/0000001", "3", "count", ["red.png"])
    assert first.question.messages == [{"role": "user", "content": "<image>\nHow many?"}]
    ((image,), videos) = first.question.media()
    assert (image.getpixel((0, 0)), videos) == ((255, 0, 0), [])
    assert first.files() == [("png", png("red"))]
    assert (second.question.media, second.files, second.reference) == (None, None, "two")
    with pytest.raises(SampleError, match=r"there is no file 'gone\.png' below the root"):  # when its turn comes
        third.question.media()
    assert [one.reference for one in read_questions([path], answers=False, limit=2).asked] == [None, None]


def test_an_instruction_stands_behind_each_question(tmp_path) -> None:
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    with open_shard(tmp_path / "s-000000.tar") as shard:
        shard.write("a", {"messages": [{"role": role, "content": text} for role, text in turns]})
    path = write_lines(tmp_path / "q.jsonl", {"question": "How many?", "answer": "two"})
    where = [path, str(tmp_path / "s-000000.tar")]
    told = read_questions(where, instruction="End with Answer:").asked
    assert [one.question.messages[-1]["content"] for one in told] == [
        f"{asked}\nEnd with Answer:" for asked in ("How many?", "One?", "Two?")
    ]
    assert [one.question.messages[0]["content"] for one in told[1:]] == ["Be brief."] * 2
    assert read_questions(where).digest() != read_questions(where, instruction="End with Answer:").digest()


def test_shards(tmp_path) -> None:
    turns = [("user", "<image>\nOne?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "Answer: 2")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with open_shard(tmp_path / "s-000000.tar") as shard:
        shard.write("a", {"messages": messages, "source": "sums", "kinds": ["count", "sum"]}, [("png", png("blue"))])
        shard.write("b", {"messages": messages[2:], "answer": 5})
        shard.write("c", {"text": "a document"})
        shard.write("d", {"messages": messages[:3], "chosen": "x", "rejected": "y"})
    found = read_questions([str(tmp_path / "s-*.tar")])
    one, two, second = found.asked
    assert (one.question.key, one.reference, one.source, one.images) == ("s-000000/a#0", "1", "sums", 1)
    assert (two.question.key, two.reference, two.kind, two.images) == ("s-000000/a#1", "Answer: 2", "sum", 1)
    assert list(two.question.messages) == [{"role": "user", "content": "<image>\nTwo?"}]
    assert one.question.media is two.question.media
    assert one.question.media()[0][0].getpixel((0, 0)) == (0, 0, 255)
    assert (second.question.key, second.reference, second.files) == ("s-000000/b", "5", None)
    assert [problem.partition(":")[0] for problem in found.problems] == ["s-000000/c", "s-000000/d"]
    assert "a document asks no question" in found.problems[0]
    assert [one.kind for one in read_questions([str(tmp_path / "s-*.tar")], kinds=["sum"]).asked] == ["sum"]
    with pytest.raises(DataError, match="no question is of the kind add; the kinds are count, sum"):
        read_questions([str(tmp_path / "s-*.tar")], kinds=["add"])


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
    assert found.asked == []
    assert found.problems[:4] == [
        'q.jsonl:1: no "question", but "prompt", "answer"',
        'q.jsonl:2: no "answer", but "question"',
        'q.jsonl:3: no text as "question"',
        "q.jsonl:4: wrong JSON: list where an object belongs",
    ]
    assert 'q.jsonl:5: "image" is no path' in found.problems[4]
    assert "q.jsonl:7: wrong JSON" in found.problems[5]


def test_files_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(DataError, match=r"there is no file of questions .*gone\.jsonl"):
        read_questions([str(tmp_path / "gone.jsonl")])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match=r"there is no question in .*empty\.jsonl"):
        read_questions([str(empty)])
    one = write_lines(tmp_path / "q.jsonl", {"question": "a?", "answer": "b"})
    with pytest.raises(DataError, match="there is no folder of images"):
        read_questions([one], image_root=str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    two = write_lines(tmp_path / "other" / "q.jsonl", {"question": "a?", "answer": "b"})
    with pytest.raises(DataError, match="one key, q/0000001: rename one of the files"):
        read_questions([one, two])
    with pytest.raises(DataError, match="no shard matches"):
        read_questions([str(tmp_path / "x-*.tar")])


def test_the_digest_tells_other_questions_apart(tmp_path) -> None:
    lines = [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]
    path = write_lines(tmp_path / "q.jsonl", *lines)
    first = read_questions([path]).digest()
    assert read_questions([path]).digest() == first
    assert read_questions([path], limit=1).digest() != first
    write_lines(tmp_path / "q.jsonl", {"question": "a?", "answer": "other"}, lines[1])
    assert read_questions([path]).digest() != first
