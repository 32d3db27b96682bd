from __future__ import annotations

import json
from typing import Any

import pytest

from mmcomponents.data.chat.record_kinds import conversation, record_kind
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import clips, parse_record, source_of

ASK = {"role": "user", "content": "How many?"}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"messages": [ASK]}, "chat"),
        ({"text": "words", "more": 1}, "document"),
        ({"messages": [ASK], "chosen": "3", "rejected": "4"}, "pair"),
    ],
)
def test_kinds(record: dict[str, Any], kind: str) -> None:
    assert parse_record(json.dumps(record).encode()) == record
    assert record_kind(record) == kind


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected an object, got list"),
        ({"text": 3}, '"text" is not a text \\(int\\)'),
        ({"messages": {"role": "user"}}, '"messages" is not a list \\(dict\\)'),
        ({}, 'no "text", but nothing'),
        (
            {"id": 1, "image": "a.jpg", "conversations": []},
            '"id", "image", "conversations": `mmcomponents data con',
        ),
        ({str(number): number for number in range(9)}, '"5", …: `mmcomponents'),
        ({"text": "a", "messages": []}, "both"),
        ({"messages": [ASK], "chosen": "3"}, "a pair must have two texts"),
        ({"messages": [ASK], "chosen": "3", "rejected": None}, "a pair must have two texts"),
        ({"messages": [ASK], "chosen": "3", "rejected": "3"}, "are equal"),
    ],
)
def test_what_is_no_record(record: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        parse_record(json.dumps(record).encode())


def test_conversations_of_a_pair() -> None:
    pair = {"messages": [ASK], "chosen": "3", "rejected": "4"}
    assert conversation(pair) == [ASK, {"role": "assistant", "content": "3"}]
    assert conversation(pair, "rejected")[-1]["content"] == "4"
    with pytest.raises(ConversationError, match="plain document"):
        conversation({"text": "words"})


def test_a_source_is_a_text() -> None:
    assert source_of({"source": "books"}) == "books"
    assert [source_of(record) for record in ({}, {"source": None}, {"source": {"a": 1}}, {"source": 3})] == [""] * 4


def test_clips() -> None:
    assert clips({}, 2) == [None, None]
    assert clips({"clips": [[0, 1.5], None]}, 2) == [(0.0, 1.5), None]
    for wrong in ("ab", 3, [[1, 2]], [[1, 2], [1]], [[1, 2], "ab"], [[1, 2], [True, 2]], [[1, 2], ["1", "2"]]):
        with pytest.raises(SampleError, match="clip"):
            clips({"clips": wrong}, 2)
