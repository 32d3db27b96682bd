"""The prompt that stands for one that is left out."""

from __future__ import annotations

import pytest

import synergen
from mmcomponents.data.chat.picture_prompt import unconditional
from mmcomponents.data.chat.special_tokens import ConversationError


def test_the_last_turn_is_replaced_and_what_is_before_it_stays() -> None:
    how = synergen.renderer()
    turns = [
        {"role": "system", "content": "Draw."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Generate an image of: 4 7"},
    ]
    found = unconditional(how.prompt(turns, []).input_ids, how.tokenizer)
    text = how.tokenizer.decode(found.input_ids)
    head = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns[:3])
    assert text.startswith(head + "<|im_start|>user\nGenerate an image of: ")
    assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert "4 7" not in text
    assert found.input_ids[found.place] == how.pad_id


def test_ids_without_a_question_are_refused() -> None:
    with pytest.raises(ConversationError, match="a prompt of 3 tokens has no turn of the user before the answer"):
        unconditional([1, 2, 3], synergen.renderer().tokenizer)
