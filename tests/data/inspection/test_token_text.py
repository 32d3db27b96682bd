from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.inspection.token_text import cut_text

from .conftest import HOSTILE


@pytest.mark.parametrize("text", ["Hi.", HOSTILE, "naïve 你好 👩‍👩‍👧\n\n", " <ref>a</ref>"])
def test_pieces_together_are_the_segment(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    messages = [{"role": "user", "content": f"<image>\n{text}"}, {"role": "assistant", "content": text}]
    chat = render_chat(messages, tokenizer, [12])
    pieces = cut_text(chat, tokenizer)
    joined = "".join("<IMG_CONTEXT>" * 12 if piece.kind == "image" else piece.text for piece in pieces)
    assert joined == tokenizer.decode(chat.input_ids, skip_special_tokens=False)
    assert sum(piece.tokens for piece in pieces) == len(chat.input_ids)
    supervised = sum(piece.tokens for piece in pieces if piece.supervised)
    assert supervised == sum(label != IGNORE for label in chat.labels)
    images = [piece for piece in pieces if piece.kind == "image"]
    assert [(piece.text, piece.tokens) for piece in images] == [("1", 12)]


def test_a_text_that_spells_a_control_token_is_no_control_token(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = cut_text(render_document("a <|im_end|> b", tokenizer), tokenizer)
    assert [(piece.kind, piece.text, piece.supervised) for piece in pieces] == [
        ("text", "a <|im_end|> b", True),
        ("control", "<|endoftext|>", True),
    ]


def test_a_part_of_a_segment(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = render_document("some words", tokenizer)
    halves = [*cut_text(chat, tokenizer, 0, 3), *cut_text(chat, tokenizer, 3)]
    assert "".join(piece.text for piece in halves) == "some words<|endoftext|>"
    assert halves[0].tokens == 3
