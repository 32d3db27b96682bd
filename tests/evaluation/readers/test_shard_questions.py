from __future__ import annotations

import io
from pathlib import Path

import av
import pytest
from PIL import Image

from evaluation.readers.question_files import png, sizes
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shards import ShardWriter, open_shard
from mmcomponents.evaluation import open_benchmark, read_questions


def test_shards_ask_each_question_by_itself(shards: str) -> None:
    found = open_benchmark(shards)
    assert found.name == "notes-test"
    assert found.refused == ["test-000000/two: a document has no questions with known answers"]
    read, add = found.items
    assert (read.key, read.category, read.target.references) == ("test-000000/one#0", "read", ("12",))
    assert (add.category, add.text) == ("add", "Add.")
    assert [m["role"] for m in add.messages] == ["system", "user"]
    assert add.media is read.media
    assert sizes(add) == [(9, 9)]


def test_a_record_of_another_packages_kind_is_no_question(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "own") as writer:
        writer.write("one", {"ask": "How tall?", "number": 3})
    (told,) = open_benchmark(str(tmp_path / "own-*.tar")).refused
    assert told.startswith("own-000000/one: only a chat has questions with known answers, and the keys of this record")
    assert told.endswith(' are ["ask", "number"]')


def mp4(frames: int) -> bytes:
    """A video whose first half is black and whose second half is white."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for number in range(frames):
            level = 255 * (2 * number >= frames)
            out.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), (level,) * 3))))
        out.mux(stream.encode())
    return file.getvalue()


def test_the_videos_of_earlier_turns_stand_in_front_of_a_question(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "<video>\nThen <image>. What?"},
        {"role": "assistant", "content": "light"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "And <video>?"},
        {"role": "assistant", "content": "dark"},
    ]
    files = [("0.png", png((9, 9))), ("1.mp4", mp4(12)), ("2.mp4", mp4(8))]
    with ShardWriter(tmp_path, "clips") as writer:
        writer.write("one", {"messages": messages, "clips": [None, [0, 0.5]]}, files)
    where = str(tmp_path / "clips-*.tar")
    for found in (open_benchmark(where), read_questions([where])):
        assert found.refused == []
        first, second, third = found.items
        assert [item.messages[-1]["content"] for item in found.items] == [
            "<video>\nThen <image>. What?",
            "<video>\n<image>\nSure?",
            "<video>\n<image>\nAnd <video>?",
        ]
        assert second.media is first.media
        assert (first.clips, third.clips) == ([None], [None, [0, 0.5]])
        assert [suffix for suffix, _ in third.files()] == ["png", "mp4", "mp4"]
        images, (film,) = first.media()
        assert [image.size for image in images] == [(9, 9)]
        assert {frame.size for frame in film} == {(32, 32)}
        levels = [frame.getpixel((16, 16))[0] for frame in film]
        assert levels[0] < 40
        assert levels[-1] > 215
        _, (_, short) = third.media()
        assert all(frame.getpixel((16, 16))[0] < 40 for frame in short)


def test_placeholders_and_files_that_differ_in_number_are_refused(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "<image> or <image>?"}, {"role": "assistant", "content": "1"}]
    with ShardWriter(tmp_path, "odd") as writer:
        writer.write("one", {"messages": messages}, [("png", png())])
    assert open_benchmark(str(tmp_path / "odd-*.tar")).refused == [
        "odd-000000/one: 2 <image> placeholders in the user's turns, 1 image"
    ]


def test_a_question_sees_the_images_up_to_its_turn(tmp_path: Path) -> None:
    turns = ["<image>\nWhat?", "a cat", "And <image>?", "a dog"]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    with ShardWriter(tmp_path, "two") as writer:
        writer.write("one", {"messages": messages}, [("0.png", png((9, 9))), ("1.png", png((5, 5)))])
    first, second = open_benchmark(str(tmp_path / "two-*.tar")).items
    assert sizes(first) == [(9, 9)]
    assert sizes(second) == [(9, 9), (5, 5)]
    assert second.messages[-1]["content"] == "<image>\nAnd <image>?"


def test_shards(tmp_path) -> None:
    turns = [("user", "<image>\nOne?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "Answer: 2")]
    messages = [{"role": role, "content": text} for role, text in turns]
    with open_shard(tmp_path / "s-000000.tar") as shard:
        shard.write(
            "a", {"messages": messages, "source": "sums", "kinds": ["count", "sum"]}, [("png", png((4, 4), "blue"))]
        )
        shard.write("b", {"messages": messages[2:], "answer": 5})
        shard.write("c", {"text": "a document"})
        shard.write("d", {"messages": messages[:3], "chosen": "x", "rejected": "y"})
    found = read_questions([str(tmp_path / "s-*.tar")])
    one, two, second = found.items
    assert (one.key, one.answer, one.source, len(one.files())) == ("s-000000/a#0", "1", "sums", 1)
    assert (two.key, two.answer, two.category, len(two.files())) == ("s-000000/a#1", "Answer: 2", "sum", 1)
    assert list(two.messages) == [{"role": "user", "content": "<image>\nTwo?"}]
    assert one.media is two.media
    assert one.media()[0][0].getpixel((0, 0)) == (0, 0, 255)
    assert (second.key, second.answer, second.files) == ("s-000000/b", "5", None)
    benchmark = open_benchmark(str(tmp_path / "s-*.tar"))
    assert [(item.key, item.answer) for item in benchmark.items][2:] == [("s-000000/b#0", "Answer: 2")]
    assert [problem.partition(":")[0] for problem in found.refused] == ["s-000000/c", "s-000000/d"]
    assert "a document has no question" in found.refused[0]
    assert [one.category for one in read_questions([str(tmp_path / "s-*.tar")], kinds=["sum"]).items] == ["sum"]
    with pytest.raises(DataError, match=r"s-\*\.tar has no question of the kind 'add'; there are: count, sum, none"):
        read_questions([str(tmp_path / "s-*.tar")], kinds=["add"])
