from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.rendered_sample import RenderedSample, Span
from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.inspection.token_text import cut_text
from mmcomponents.data.media.images import TiledImage

from .conftest import HOSTILE


@pytest.mark.parametrize("text", ["Hi.", HOSTILE, "naïve 你好 👩‍👩‍👧\n\n", " <ref>a</ref>"])
def test_pieces_together_are_the_segment(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    messages = [{"role": "user", "content": f"<image>\n{text}"}, {"role": "assistant", "content": text}]
    chat = RenderedSample.of_chat(render_chat(messages, tokenizer, [12]), [TiledImage.of_tiles(3)])
    pieces = cut_text(chat, tokenizer)
    joined = "".join("<IMG_CONTEXT>" * 12 if piece.kind == "image" else piece.text for piece in pieces)
    assert joined == tokenizer.decode(chat.input_ids, skip_special_tokens=False)
    assert sum(piece.tokens for piece in pieces) == len(chat.input_ids)
    supervised = sum(piece.tokens for piece in pieces if piece.supervised)
    assert supervised == sum(label != IGNORE for label in chat.labels)
    images = [piece for piece in pieces if piece.kind == "image"]
    assert [(piece.text, piece.tokens) for piece in images] == [("1", 12)]


def test_a_text_that_spells_a_control_token_is_no_control_token(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = cut_text(RenderedSample.of_chat(render_document("a <|im_end|> b", tokenizer)), tokenizer)
    assert [(piece.kind, piece.text, piece.supervised) for piece in pieces] == [
        ("text", "a <|im_end|> b", True),
        ("control", "<|endoftext|>", True),
    ]


def test_a_part_of_a_segment(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = RenderedSample.of_chat(render_document("some words", tokenizer))
    halves = [*cut_text(chat, tokenizer, 0, 3), *cut_text(chat, tokenizer, 3)]
    assert "".join(piece.text for piece in halves) == "some words<|endoftext|>"
    assert halves[0].tokens == 3


def test_tokens_of_other_types_are_named(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("some words", add_special_tokens=False).input_ids
    spans = [Span(len(ids), 3, TokenType.ACTION), Span(len(ids) + 3, 2, TokenType.IMAGE_GEN, 0)]
    length = len(ids) + 6
    labels = [IGNORE] * (length - 1) + [ids[0]]
    segment = RenderedSample([*ids, *[0] * 5, ids[0]], labels, spans, [TiledImage.of_tiles(1)])
    pieces = cut_text(segment, tokenizer)
    assert [(piece.kind, piece.text, piece.tokens) for piece in pieces] == [
        ("text", "some words", len(ids)),
        ("other", "action", 3),
        ("image", "1", 2),
        ("text", tokenizer.decode(ids[:1]), 1),
    ]
    assert [piece.supervised for piece in pieces] == [False, False, False, True]
