from __future__ import annotations

import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.synthesis.questions import Item, Questions, Target, check_skipped


def item(key: str, category: str = "") -> Item:
    return Item(key, [{"role": "user", "content": f"{key}?"}], Target(("1",), {"A": "x"}), category)


def test_reading_stops_at_a_limit() -> None:
    def endless():
        number = 0
        while True:
            yield f"bad {number}"
            yield item(str(number), "ab"[number % 2])
            number += 1

    found = Questions("some").take(endless(), kinds=["b"], limit=2)
    assert [one.key for one in found.items] == ["1", "3"]
    assert found.refused == ["bad 0", "bad 1", "bad 2", "bad 3"]


def test_options_and_an_instruction_become_text_once() -> None:
    worded = item("a").worded("Say.")
    assert worded.messages[-1]["content"] == worded.question().messages[-1]["content"] == "a?\nA. x\nSay."
    assert worded.answer == "1"


def test_too_many_refused_ones_are_an_error() -> None:
    check_skipped(["a: why"], 2, 0.5, "records", "read")
    with pytest.raises(DataError, match=r"here: 2 of 2 records cannot be read, more than max_refused 0\.5: a, b: why"):
        check_skipped(["a: why", "b: why"], 2, 0.5, "records", "read", "here: ")
