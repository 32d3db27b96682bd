"""Answers that are a reasoning text and a picture."""

from __future__ import annotations

import got
from mmcomponents.data.chat.reasoned_prompt import reasoned_answer, reasoning_ids


def test_a_text_alone_has_the_ids_of_the_answer() -> None:
    tokenizer = got.renderer().tokenizer
    answer = reasoned_answer(got.TEXT, 3, tokenizer)
    ids = reasoning_ids(got.TEXT, tokenizer)
    assert answer.input_ids[: len(ids)] == ids
    assert answer.queries == len(ids) + 1
    assert answer.input_ids[answer.queries : answer.queries + 3] == [0, 1, 2]


def test_a_text_has_no_control_tokens() -> None:
    tokenizer = got.renderer().tokenizer
    start = tokenizer.convert_tokens_to_ids("<img>")
    assert start not in reasoning_ids("a <img> tag", tokenizer)
    assert start in reasoned_answer("", 1, tokenizer).input_ids
