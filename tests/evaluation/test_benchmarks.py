from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.readers.question_files import write_lines
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.shards import open_shard
from mmcomponents.evaluation import open_benchmark, read_questions


def test_no_benchmark(tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "text.csv").write_text("index,question")
    (tmp_path / "latin.tsv").write_bytes(b"index\timage\tquestion\tanswer\n0\t\xff\xfe\t?\t1\n")
    for name, complaint in (
        ("gone.tsv", "question file not found"),
        ("empty.tsv", "is empty"),
        ("empty.jsonl", "no questions in"),
        ("text.csv", "expected a .tsv, a .jsonl or shards"),
        ("gone-*.tar", "no shard matches"),
        ("latin.tsv", "is not a valid TSV file: line 2"),
    ):
        with pytest.raises(DataError, match=complaint):
            open_benchmark(str(tmp_path / name))


def test_some_of_the_questions(shards: str) -> None:
    found = open_benchmark(shards)
    assert [item.category for item in found.narrow(["add"]).items] == ["add"]
    some = found.narrow(limit=1)
    assert [item.category for item in some.items] == ["read"]
    assert some.digest() == found.digest() == found.narrow(["add"]).narrow(limit=1).digest()
    assert some.digest("Think.") != found.digest()
    with pytest.raises(DataError, match="no question of the kind 'ad'; there are: read, add"):
        found.narrow(["ad"])


def test_files_that_cannot_be_used(tmp_path) -> None:
    with pytest.raises(DataError, match=r"question file not found: .*gone\.jsonl"):
        read_questions([str(tmp_path / "gone.jsonl")])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match=r"no questions in .*empty\.jsonl"):
        read_questions([str(empty)])
    one = write_lines(tmp_path / "q.jsonl", {"question": "a?", "answer": "b"})
    with pytest.raises(DataError, match="image folder not found"):
        read_questions([one], image_root=str(tmp_path / "none"))
    (tmp_path / "other").mkdir()
    two = write_lines(tmp_path / "other" / "q.jsonl", {"question": "a?", "answer": "b"})
    with pytest.raises(DataError, match="both have a question with the key q/0000001: rename one of the files"):
        read_questions([one, two])
    with pytest.raises(DataError, match="no shard matches"):
        read_questions([str(tmp_path / "x-*.tar")])


def test_an_instruction_stands_behind_each_question(tmp_path) -> None:
    turns = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?"), ("assistant", "2")]
    with open_shard(tmp_path / "s-000000.tar") as shard:
        shard.write("a", {"messages": [{"role": role, "content": text} for role, text in turns]})
    path = write_lines(tmp_path / "q.jsonl", {"question": "How many?", "answer": "two"})
    where = [path, str(tmp_path / "s-000000.tar")]
    told = read_questions(where, instruction="End with Answer:").items
    assert [one.messages[-1]["content"] for one in told] == [
        f"{asked}\nEnd with Answer:" for asked in ("How many?", "One?", "Two?")
    ]
    assert [one.messages[0]["content"] for one in told[1:]] == ["Be brief."] * 2
    told = read_questions(where, instruction="End with Answer:")
    assert read_questions(where).digest_with_answers() != told.digest_with_answers()


def test_the_digest_tells_other_questions_apart(tmp_path) -> None:
    lines = [{"question": "a?", "answer": "b"}, {"question": "c?", "answer": "d"}]
    path = write_lines(tmp_path / "q.jsonl", *lines)
    first = read_questions([path]).digest_with_answers()
    assert read_questions([path]).digest_with_answers() == first
    assert read_questions([path], limit=1).digest_with_answers() != first
    write_lines(tmp_path / "q.jsonl", {"question": "a?", "answer": "other"}, lines[1])
    assert read_questions([path]).digest_with_answers() != first
