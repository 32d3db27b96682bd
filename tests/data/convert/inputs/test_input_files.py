from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.data.convert.inputs.input_files import find_sources, unread_files
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.inputs.unicode_names import normalized_match
from mmcomponents.data.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in/images").mkdir(parents=True)
    (tmp_path / "in/books").mkdir()
    for name in ("in/a.jsonl", "in/b.jsonl", "in/books/2.txt", "in/books/1.txt", "in/books/c.ndjson", "in/x.csv"):
        (tmp_path / name).write_text('{"text": "A page."}\n')
    return tmp_path


def write_meta(folder: Path, **entries: Any) -> str:
    (folder / "in/meta.json").write_text(json.dumps(entries))
    return "in/meta.json"


def test_files_folders_and_patterns(folder: Path) -> None:
    inside = Path("in")
    assert find_sources(["in/a.jsonl"], None) == [Source("a", (inside / "a.jsonl",), "lines", inside)]
    assert find_sources(["in/a.jsonl"], "in/images")[0].root == inside / "images"
    assert [source.name for source in find_sources(["in", "in/[b].jsonl"], None)] == ["a", "b"]
    books = inside / "books"
    found = find_sources(["in/books"], None)
    assert found == [
        Source("c", (books / "c.ndjson",), "lines", books),
        Source("books", (books / "1.txt", books / "2.txt"), "texts", books),
    ]
    assert [source.name for source in find_sources(["in/**/*.txt"], None)] == ["books"]
    (folder / "in/one[1].jsonl").write_text("{}")
    assert find_sources(["in/one[1].jsonl"], None)[0].stem == "one_1"


def test_a_meta_file_says_everything(folder: Path) -> None:
    told = {"data_augment": True, "max_dynamic_patch": 6, "repeat_time": 0.5, "length": 3}
    meta = write_meta(
        folder,
        **{
            "my set, v1.2": {"root": "images", "annotation": "a.jsonl", **told},
            "plain": {"root": "", "annotation": str(folder / "in/b.jsonl")},
            "here": {"root": "in/images", "annotation": "in/a.jsonl"},
        },
    )
    mine, plain, here = find_sources([meta], None)
    inside = Path("in")
    assert mine == Source(
        "my set, v1.2", (inside / "a.jsonl",), "lines", inside / "images", 0.5, 6, True, 3, is_listed=True
    )
    assert mine.shard(12) == "my_set_v1_2-000012.tar"
    assert plain == Source("plain", (folder / "in/b.jsonl",), "lines", folder / "in", is_listed=True)
    assert here.root == inside / "images"
    assert find_sources([meta], "in/books")[1].root == inside / "books"


def test_a_json_file_may_hold_lines(folder: Path) -> None:
    (folder / "in/lines.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    (folder / "in/one.json").write_text('{"text": "a"}\n')
    assert [source.name for source in find_sources(["in/lines.json", "in/one.json"], None)] == ["lines", "one"]
    (folder / "in/list.json").write_text('[{"text": "a"}]')
    (folder / "in/config.json").write_text('{"text": {"annotation": "a.jsonl"}}')
    (folder / "in/other.json").write_text('{\n "a": 1}')
    names = [source.name for source in find_sources(["in"], None)]
    assert names == ["a", "b", "lines", "list", "one"]
    assert [path.name for path in unread_files(["in", "in/a.jsonl"])] == ["config.json", "other.json"]


def test_data_sets_may_be_called_like_the_keys_of_samples(folder: Path) -> None:
    for name in ("text", "messages", "conversations", "chosen"):
        meta = write_meta(folder, **{name: {"annotation": "a.jsonl"}, "b": {"annotation": "b.jsonl"}})
        assert [source.name for source in find_sources([meta], None)] == [name, "b"]
    text = json.dumps({"text": {"annotation": "a.jsonl"}}, indent=2)
    (folder / "in/pretty.json").write_text("\ufeff" + text, encoding="utf-8")
    assert [source.name for source in find_sources(["in/pretty.json"], None)] == ["text"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            b'{\n "a": {"annotation": "a.jsonl"}\n "b": {}\n}\n',
            r"meta\.json is not JSON: line 3: Expecting ',' delimiter",
        ),
        (b'{"a": {"annotation": "a.jsonl"},}', r"meta\.json is not JSON: line 1: "),
        (b'{"a": {"annotation": "a.jsonl"}, "a": {"annotation": "b.jsonl"}}', "duplicate key 'a' in an object"),
        (b'{"a": {"annotation": "a.jsonl", "root": "", "root": "x"}}', "duplicate key 'root' in an object"),
        (b'{"a": {"annotation": "a.jsonl", "length": NaN}}', "NaN is not JSON"),
        (
            b'{"a": {"annotation": "a.jsonl", "length": 1' + b"0" * 400 + b"}}",
            "'length' must be a number >= 0, not 10",
        ),
        (b'{"a": {"annotation": "a.jsonl", "length": 1' + b"0" * 5000 + b"}}", "too many digits"),
        (b'{"a": {"annotation": "a.jsonl"}, "b": "c"}', "is neither a sample nor a meta file"),
        (b'{"a": {"annotation": "meta.json"}}', "its annotation, .*meta.json, is a meta file"),
        (b'{"text": {"annotation": "a.jsonl"}, "b": {"anotation": "c"}}', "data set 'b': unknown keys anotation"),
        (b'{"' + b"n" * 201 + b'": {"annotation": "a.jsonl"}}', "in/a.jsonl has 201 characters, more than 200: 'nnn"),
        (b'{"": {"annotation": "a.jsonl"}}', "the name of the data set of in/a.jsonl is empty"),
        (b'{"a\\ud800": {"annotation": "a.jsonl"}}', r"has the control character U\+D800"),
        (b'{"text": "A page.",\n "id": 3}\n', r"is a sample in several lines; write it in one: jq -c \."),
        ('{"text": "a"}'.encode("utf-16"), "is not JSON: invalid UTF-8 at byte 0"),
        (b'{"a":' * 100_000, "is not JSON: the JSON is nested too deeply"),
    ],
)
def test_a_json_file_that_is_wrong_is_one_error(folder: Path, text: bytes, reason: str) -> None:
    (folder / "in/meta.json").write_bytes(text)
    with pytest.raises(DataError, match=reason) as error:
        find_sources(["in/meta.json"], None)
    assert len(str(error.value)) < 300


def test_a_name_of_200_characters_is_fine(folder: Path) -> None:
    assert find_sources([write_meta(folder, **{"n" * 200: {"annotation": "a.jsonl"}})], None)[0].name == "n" * 200


def test_lines_that_are_wrong_are_left_to_the_packing(folder: Path) -> None:
    (folder / "in/lines.json").write_text('{"text": \n\n{"text": "b"}\n')
    (folder / "in/empty.json").write_text("\n")
    assert len(find_sources(["in/lines.json", "in/empty.json"], None)) == 2


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (["nothing.jsonl"], "there is no nothing.jsonl"),
        (["in/x.csv"], r"in/x\.csv is not an annotation file: supported are \.jsonl"),
        (["in/images"], "has no .jsonl, .txt and .parquet files"),
        (["in/torn.parquet"], r"in/torn\.parquet is not a table: "),
        (["in/saved"], r"in/saved is not a complete folder of the library datasets: .*train"),
        (
            {"e\u0301": {"annotation": "a.jsonl"}, "\u00e9": {"annotation": "b.jsonl"}},
            "differ in Unicode normalization",
        ),
        (["in/odd.json"], "is neither a sample nor a meta file"),
        (["in/a.jsonl", "in/books/a.jsonl"], r"would both write a-\*\.tar: name them in a meta file"),
        ({"a": {"annotation": "a.jsonl", "rot": "x"}}, r"data set 'a': unknown keys rot; known are annotation, data_"),
        ({"a": {"annotation": ["a.jsonl"]}}, "'annotation' must be the path"),
        ({"a": {"annotation": "z.jsonl"}}, "there is no z.jsonl, neither beside the meta file nor"),
        ({"a": {"annotation": "a.jsonl", "root": "z"}}, "there is no z, neither"),
        ({"a": {"annotation": "a.jsonl", "data_augment": 1}}, "'data_augment' must be true or false, not 1"),
        ({"a": {"annotation": "a.jsonl", "max_dynamic_patch": 0}}, "a positive integer, not 0"),
        ({"a": {"annotation": "a.jsonl", "repeat_time": "2"}}, "'repeat_time' must be a number >= 0, not '2'"),
        ({"a b": {"annotation": "a.jsonl"}, "a_B": {"annotation": "b.jsonl"}}, "would both write"),
    ],
)
def test_what_is_no_input(folder: Path, inputs: Any, reason: str) -> None:
    (folder / "in/torn.parquet").write_text("PAR1")
    (folder / "in/saved").mkdir()
    (folder / "in/saved/dataset_dict.json").write_text('{"splits": ["train"]}')
    (folder / "in/odd.json").write_text('{"a": "b.jsonl"}')
    (folder / "in/books/a.jsonl").write_text("")
    with pytest.raises(DataError, match=reason):
        find_sources(inputs if isinstance(inputs, list) else [write_meta(folder, **inputs)], None)


def test_a_root_has_to_be_there(folder: Path) -> None:
    with pytest.raises(DataError, match="the root nothing is not a folder"):
        find_sources(["in/a.jsonl"], "nothing")


def test_files_are_found_by_names_of_another_normalization(folder: Path) -> None:
    """macOS writes `é` as two characters into archives, annotations mostly have one."""
    (folder / "in/cafe\u0301").mkdir()
    (folder / "in/cafe\u0301/the\u0301.jsonl").write_text("{}")
    (source,) = find_sources(["in/caf\u00e9/th\u00e9.jsonl"], None)
    assert source.files[0].is_file()
    meta = write_meta(folder, a={"annotation": "caf\u00e9/th\u00e9.jsonl", "root": "caf\u00e9"})
    assert find_sources([meta], None)[0].root.is_dir()
    here = folder / "in/caf\u00e9/th\u00e9.jsonl"
    assert normalized_match(here) == folder / "in/cafe\u0301/the\u0301.jsonl"
    (folder / "in/lost\u00e9").symlink_to("nowhere")
    assert normalized_match(folder / "in/lost\u00e9") is None
    assert normalized_match(folder / "in/plain") is None


def test_a_share_for_validation_is_drawn_by_the_keys(folder: Path) -> None:
    (folder / "in/test.jsonl").write_text("{}")
    train, val, test = find_sources(["in/a.jsonl", "in/test.jsonl"], None, 0.1)
    assert (train.part, val.part, test.part, test.share) == ("train", "val", "test", 0)
    assert (train.shard(0), val.shard(0)) == ("a-000000.tar", "a-val-000000.tar")
    assert (train.name, val.name, val.label) == ("a", "a", "a (val)")
    keys = [f"{number:09d}" for number in range(5000)]
    held = [key for key in keys if val.has(key)]
    assert [key for key in keys if not train.has(key)] == held
    assert 400 < len(held) < 600, "of 5,000 by a hash"
    assert val.per_chunk(1000) == 10_000
    meta = write_meta(folder, dev={"annotation": "a.jsonl"}, science_test={"annotation": "b.jsonl"})
    assert [source.part for source in find_sources([meta], None)] == ["train", "train"], (
        "a meta file lists data to train on"
    )
    (folder / "in/a-val.jsonl").write_text("{}")
    shares = find_sources(["in/a.jsonl", "in/a-val.jsonl"], None, 0.5)
    assert [source.stem for source in shares] == ["a", "a-val", "a_val"]
