from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ladder_dataset as handwriting_ladder
from ladder_dataset import SHARES, make_handwriting_ladder, sums_in_words
from ladder_parts import LOOKING, STATEMENTS, solution
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.demos.handwriting.scenes import load_scans, split_scans

SMALL = {
    "documents": 12,
    "names": 7,
    "single": 5,
    "single_statements": 4,
    "scenes": 6,
    "statements": 3,
    "sums": 4,
    "solutions": 5,
    "refresher": 3,
    "preference_questions": 4,
    "claims": 16,
    "transcripts": 6,
    "corrections": 5,
    "mistakes": 16,
    "critic_questions": 4,
    "validation": 3,
    "held_out": 4,
    "vocab_size": 420,
}
PARTS = (
    "documents",
    "sums",
    "names",
    "digits",
    "statements_one",
    "scenes",
    "statements",
    "solutions",
    "refresher",
    "preferences",
    "claims",
    "transcripts",
    "corrections",
    "mistakes",
    "critic",
    "validation",
    "test",
)


def make(folder: Path, num_workers: int = 0, **changes: Any) -> Path:
    return Path(make_handwriting_ladder(str(folder), num_workers=num_workers, **{**SMALL, **changes}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ladder"))


def records(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    index = Index.open(sorted(folder.glob(f"{part}-*.tar")), load_tokenizer(folder / "tokenizer"))
    for number in range(len(index)):
        yield index.read(number).record


def test_parts_are_as_large_as_asked_for_and_name_their_source(made: Path) -> None:
    sizes = {part: len(list(records(made, part))) for part in PARTS}
    assert list(sizes.values()) == [12, 4, 7, 5, 4, 6, 3, 5, 3, 4, 16, 6, 5, 16, 4, 3, 4]
    assert {part: {r["source"] for r in records(made, part)} for part in PARTS} == {part: {part} for part in PARTS}


SCANS = {part: {"learnt"} for part in PARTS[2:9]} | {
    "preferences": {"preferences"},
    "claims": {"learnt", "critic"},
    "transcripts": {"learnt", "critic"},
    "corrections": {"learnt", "critic"},
    "mistakes": {"learnt", "critic"},
    "critic": {"critic"},
    "validation": {"validation"},
    "test": {"test"},
}
"""Shares of the scans that each part uses."""


def test_no_scan_is_learnt_from_and_asked_about(tmp_path: Path) -> None:
    many = {name: max(size, 40) for name, size in SMALL.items()}
    folder = make(tmp_path, **many)
    numbers = split_scans(load_scans()[1], tuple(SHARES.values()), 0)
    share_of = {scan: name for name, scans in zip(SHARES, numbers, strict=True) for scan in scans.tolist()}
    assert len(share_of) == sum(map(len, numbers)) == 1797, "each scan is in one share"
    shown = {part: {share_of[scan] for r in records(folder, part) for scan in r["scans"]} for part in PARTS[2:]}
    assert shown == SCANS


def test_the_tokenizer_is_made_from_what_is_learnt_from_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def train(of: list[str], vocab_size: int) -> Any:
        texts.extend(of)
        return train_tokenizer(of, vocab_size)

    monkeypatch.setattr(handwriting_ladder, "train_tokenizer", train)
    folder = make(tmp_path)
    wanted = list[str]()
    for part in (*PARTS[:9], "claims", "mistakes"):
        for record in records(folder, part):
            wanted += [text for said in record.get("messages", []) for text in (said["role"], said["content"])]
            wanted += [record["text"]] if "text" in record else []
    assert sorted(texts) == sorted(wanted)


def test_a_digit_is_taken_for_what_its_own_scan_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handwriting_ladder, "lookalikes", lambda scans, digits, among: 1000 + np.arange(len(digits)))
    folder = make(tmp_path)
    found = 0
    for record in records(folder, "mistakes"):
        for asked, scan in zip(record["messages"][::2], record["scans"], strict=False):
            said = int(re.findall(r"Digit \d is (\d+)\.", asked["content"])[0])
            assert said < 10 or said == 1000 + scan
            found += said >= 10
    assert found > 3


def test_what_scans_look_like_is_learnt_from_those_that_critics_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = split_scans(load_scans()[1], tuple(SHARES.values()), 0)
    told = {*shares[0].tolist(), *shares[2].tolist()}

    def search(scans: Any, digits: Any, among: Any) -> Any:
        return np.full(len(digits), 1000 if {*among.tolist()} == told else 2000)

    monkeypatch.setattr(handwriting_ladder, "lookalikes", search)
    folder = make(tmp_path)
    for part in ("mistakes", "corrections", "transcripts"):
        texts = [record.get("text") or str(record["messages"]) for record in records(folder, part)]
        said = [int(digit) for text in texts for digit in re.findall(r"Digit \d is (\d+)\.", text)]
        assert max(said) == 1000


def test_steps_are_written_out_where_they_are_learnt_and_only_there(made: Path) -> None:
    for part in ("solutions", "validation", "test"):
        for record in records(made, part):
            assert record["messages"][-1]["content"] == solution(record["digits"])
    for part in ("preferences", "critic"):
        for record in records(made, part):
            assert record["messages"][-1]["content"] == str(sum(record["digits"]))
    for part in ("digits", "scenes", "refresher"):
        for record in records(made, part):
            assert 1 <= len(set(record["kinds"])) <= 2
            assert len(record["kinds"]) == len(record["messages"]) // 2
            assert [m["content"].count("<image>") for m in record["messages"]] == [1] + [0] * (
                len(record["messages"]) - 1
            )
            assert set(record["kinds"]) <= set(LOOKING)
            assert (len(record["digits"]) == 1) or part != "digits"


def test_names_are_those_of_the_digits_that_are_there(made: Path) -> None:
    found = [(record["digits"], record["text"]) for record in records(made, "names")]
    assert all(text == f"<image>\nDigit 1 is {digit}." for (digit,), text in found)
    assert len({text for _, text in found}) > 2


def test_statements_are_about_each_digit_once_or_again_and_again_about_a_single_one(made: Path) -> None:
    several = single = 0
    for part in ("statements_one", "statements", "claims"):
        for record in records(made, part):
            places = [int(place) for place in re.findall(r"^Digit (\d) is \d\.$", record["text"], re.MULTILINE)]
            many = len(record["digits"])
            assert sorted(places) == ([1] * STATEMENTS if many == 1 else list(range(1, many + 1)))
            assert many == 1 or part != "statements_one"
            several += many > 1
            single += many == 1 and part != "statements_one"
            judged = re.findall(r"^Digit (\d) is (\d)\.\n([+-]) (\d)$", record["text"], re.MULTILINE)
            assert len(judged) == len(places)
            for place, said, verdict, there in judged:
                assert int(there) == record["digits"][int(place) - 1]
                assert verdict == ("+" if said == there else "-")
    assert several > 3
    assert single > 0


def test_transcripts_and_corrections_tell_what_is_there(made: Path) -> None:
    for record in records(made, "transcripts"):
        said = re.findall(r"^Digit (\d) is (\d)\..*\n([+-]) (\d)$", record["text"], re.MULTILINE)
        assert [int(there) for *_, there in said] == list(record["digits"])
        assert all(verdict == "-" for _, digit, verdict, there in said if digit != there)
        assert record["text"].startswith("<image>\n")
    for record in records(made, "corrections"):
        answers = [message["content"] for message in record["messages"] if message["role"] == "assistant"]
        assert [int(answer[2:]) for answer in answers[:-1]] == list(record["digits"])
        assert {answer[:2] for answer in answers} <= {"+ ", "- "}
    for record in records(made, "mistakes"):
        assert {message["content"] for message in record["messages"] if message["role"] == "assistant"} <= {"+", "-"}


def test_what_is_judged_first_has_few_digits_and_what_is_asked_has_many(tmp_path: Path) -> None:
    judged = ("statements", "claims", "transcripts", "corrections", "mistakes")
    folder = make(tmp_path, **{**SMALL, **dict.fromkeys(judged, 40)})
    for part in judged:
        sizes = [len(record["digits"]) for record in records(folder, part)]
        assert min(sizes) == 1
        assert 14 <= sum(size in (2, 3, 4) for size in sizes) <= 32, "6 of 13"
    for part in ("critic", "preferences", "validation", "test"):
        assert {len(record["digits"]) for record in records(folder, part)} <= {4, 5, 6, 7, 8}


def test_sums_of_documents_are_right() -> None:
    texts = [sums_in_words(np.random.default_rng(seed), 5) for seed in range(60)]
    found = [match for text in texts for match in re.findall(r"(\d+) \+ (\d+) = (\d+)", text)]
    assert len(found) > 60
    assert all(int(a) + int(b) == int(c) for a, b, c in found)
    assert sum("Digit 2 is" in text for text in texts) > 30
    assert any("The sum of" in text for text in texts)


def test_the_verdicts_of_critics_are_single_tokens_with_fixed_ids(made: Path) -> None:
    tokenizer = load_tokenizer(made / "tokenizer")
    # recipes/ladder/judge.yaml has these numbers
    assert [tokenizer.encode(word, add_special_tokens=False) for word in "+-"] == [[10], [12]]


def test_who_speaks_is_one_token(made: Path) -> None:
    tokenizer = load_tokenizer(made / "tokenizer")
    assert [len(tokenizer.encode(role, add_special_tokens=False)) for role in ("user", "assistant")] == [1, 1]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path, made: Path) -> None:
    again = make(tmp_path / "again", num_workers=2)
    other = make(tmp_path / "other", seed=1)
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    assert len(names) > 2 * len(PARTS), "shards, indices, tokenizer and what is said of them"
    assert [(again / n).read_bytes() == (made / n).read_bytes() for n in names] == [True] * len(names)
    assert (other / "test-000000.tar").read_bytes() != (made / "test-000000.tar").read_bytes()


def test_shards_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"has 1 shards, such as .*mine-000000\.tar, without a note"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"critic_questions": 0}, "may be empty: critic"),
        ({"orders": (1, 0, 1)}, "grids"),
        ({"judged": ()}, "scenes of judged"),
        ({"judged": (1, float("nan"))}, "scenes of judged"),
        ({"seed": -1}, "seed must be"),
        ({"summands": (1, 0)}, "only scenes of one digit"),
        ({"vocab_size": 10}, "vocab_size 10 is less"),
        ({"samples_per_shard": 0}, "samples_per_shard must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
    ],
)
def test_arguments_that_make_no_scenes(tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(tmp_path, **wrong)
    assert not list(tmp_path.iterdir()), "what is there stays as it is"
