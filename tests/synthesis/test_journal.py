from __future__ import annotations

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.synthesis.journal import Journal

SETTINGS = {"seed": 1, "stop": ("a",)}


def test_a_run_goes_on_from_what_is_there(tmp_path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add({"key": "a", "texts": ["x\u2028\n", "\ud800"]})
        assert path.read_bytes().count(b"\n") == 2  # each record is written at once
    with Journal(path, SETTINGS) as journal:
        assert journal.done == {"a": {"key": "a", "texts": ["x\u2028\n", "\ud800"]}}
        journal.add({"key": "b"})
    assert list(Journal(path, SETTINGS).done) == ["a", "b"]


def test_a_line_that_was_cut_is_dropped(tmp_path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, SETTINGS) as journal:
        journal.add({"key": "a"})
        journal.add({"key": "b"})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path, SETTINGS) as journal:
            for key in "ab":
                if key not in journal.done:
                    journal.add({"key": key})
        assert path.read_bytes() == whole


def test_other_settings_and_other_files_are_refused(tmp_path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, SETTINGS | {"seed": 3}).close()  # without a record
    with Journal(path, SETTINGS) as journal:
        journal.add({"key": "a"})
    with pytest.raises(DataError, match=r"other settings \(seed was 1 and is 2\)"):
        Journal(path, SETTINGS | {"seed": 2})
    with pytest.raises(DataError, match="temperature was None and is 1"):
        Journal(path, SETTINGS | {"temperature": 1})
    before = path.read_bytes()
    path.write_bytes(before + b"no json\n" + b'{"key": "a"}\n')
    with pytest.raises(DataError, match=r"journal\.jsonl:3 is not a line of a journal"):
        Journal(path, SETTINGS)
    path.write_text('{"question": "x"}\n')
    with pytest.raises(DataError, match=r"journal\.jsonl:1 is not a line"):
        Journal(path, SETTINGS)


def test_a_record_has_a_key(tmp_path) -> None:
    with Journal(tmp_path / "j", {}) as journal, pytest.raises(ValueError, match='a string as "key"'):
        journal.add({"texts": []})
