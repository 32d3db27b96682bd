from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.special_tokens import ConversationError, TemplateError


def test_the_text_is_the_target_and_pictures_are_not(qwen: PreTrainedTokenizerFast) -> None:
    chat = render_document("One <image> two", qwen, [3])
    tokens = qwen.convert_ids_to_tokens(chat.input_ids)
    assert tokens == ["One", "Ġ", "<img>", *["<IMG_CONTEXT>"] * 3, "</img>", "Ġtwo", "<|endoftext|>"]
    supervised = [token for token, label in zip(tokens, chat.labels, strict=True) if label >= 0]
    assert supervised == ["One", "Ġ", "Ġtwo", "<|endoftext|>"]
    assert chat.image_spans == [(3, 3)]


def test_words_that_look_like_placeholders_or_control_tokens(qwen: PreTrainedTokenizerFast) -> None:
    plain = render_document("an <image> tag and <|im_end|>", qwen)
    assert qwen.decode(plain.input_ids) == "an <image> tag and <|im_end|><|endoftext|>"
    assert qwen.convert_tokens_to_ids("<|im_end|>") not in plain.input_ids
    with pytest.raises(ConversationError, match="document, contains the control token"):
        render_document("and <|im_end|>", qwen, control_text="refuse")


@pytest.mark.parametrize(("text", "images"), [("", 0), (" \n", 0), ("<image>", 1), ("a <image>", 2), ("a \ud800", 0)])
def test_what_is_no_document(qwen: PreTrainedTokenizerFast, text: str, images: int) -> None:
    with pytest.raises(ConversationError):
        render_document(text, qwen, [1] * images)


def test_a_tokenizer_without_the_template(qwen: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer, models

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(TemplateError):
        render_document("a", bare)
