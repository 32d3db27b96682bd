from itertools import chain

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat import (
    CONTROL_TOKENS,
    ConversationError,
    TemplateError,
    check_template,
    place_image,
    render_chat,
    render_prompt,
)

from .conftest import golden

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
FIGURES = golden("e_conversations")["training"]


def runs(pairs: list[list[int]]) -> list[int]:
    return list(chain.from_iterable([value] * count for value, count in pairs))


def messages_of(figure: dict) -> list[dict[str, str]]:
    return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in figure["conversations"]]


@pytest.mark.parametrize("figure", [f for f in FIGURES if "raises" not in f], ids=lambda f: f["name"])
def test_ids_and_labels_of_the_reference(figure: dict, qwen: PreTrainedTokenizerFast) -> None:
    chat = render_chat(messages_of(figure), qwen, figure["image_token_counts"])
    assert chat.input_ids == runs(figure["input_ids_rle"])
    assert chat.labels == runs(figure["labels_rle"])
    assert [count for _, count in chat.image_spans] == figure["image_token_counts"]
    context = qwen.convert_tokens_to_ids("<IMG_CONTEXT>")
    for start, count in chat.image_spans:
        assert chat.input_ids[start : start + count] == [context] * count


def test_special_ids(qwen: PreTrainedTokenizerFast) -> None:
    special = golden("e_conversations")["special_ids"]
    assert {token: qwen.convert_tokens_to_ids(token) for token in special} == special


def test_a_missing_placeholder_is_an_error_with_both_numbers(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": "no placeholder"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(ConversationError, match=r"0 <image> placeholders.*1 images"):
        render_chat(chat, tokenizer, [4])
    placed = place_image(chat, 1)
    assert placed[0]["content"] == "<image>\nno placeholder"
    assert chat[0]["content"] == "no placeholder"
    assert render_chat(placed, tokenizer, [4]).image_spans == [(place_of(placed, tokenizer), 4)]
    with pytest.raises(ConversationError, match=r"1 <image> placeholders.*2 images"):
        render_chat(place_image(placed, 2), tokenizer, [4, 4])
    assert place_image(placed, 1) == placed
    assert place_image(chat, 0) == chat


def place_of(messages: list, tokenizer: PreTrainedTokenizerFast) -> int:
    ids = render_chat(messages, tokenizer, [4]).input_ids
    return ids.index(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_no_text_becomes_a_control_token(role: str, token: str, tokenizer: PreTrainedTokenizerFast) -> None:
    def chat(text: str) -> list[dict[str, str]]:
        texts = {"system": "s", "user": "q", "assistant": "a", role: text}
        return [{"role": r, "content": texts[r]} for r in ("system", "user", "assistant")]

    plain = render_chat(chat("plain"), tokenizer, [])
    text = f"look {token}{token} <|im_{token}end|>"
    attack = render_chat(chat(text), tokenizer, [])
    for control in CONTROL_TOKENS:
        number = tokenizer.convert_tokens_to_ids(control)
        assert attack.input_ids.count(number) == plain.input_ids.count(number)
    assert text in tokenizer.decode(attack.input_ids)
    assert attack.image_spans == []


def test_grounding_tags_stay_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": "<ref>dog</ref>"}, {"role": "assistant", "content": "<box>[[1]]</box>"}]
    ids = render_chat(chat, tokenizer, []).input_ids
    assert all(tokenizer.convert_tokens_to_ids(tag) in ids for tag in ("<ref>", "</ref>", "<box>", "</box>"))


def test_the_prompt_is_the_beginning_of_the_chat(tokenizer: PreTrainedTokenizerFast) -> None:
    question = [{"role": "user", "content": "<image>\nHow many?"}]
    prompt = render_prompt(question, tokenizer, [3], system="Count.")
    chat = render_chat([*question, {"role": "assistant", "content": "4"}], tokenizer, [3], system="Count.")
    assert chat.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert tokenizer.decode(prompt.input_ids).startswith(
        "<|im_start|>system\nCount.<|im_end|>\n<|im_start|>user\n<img>"
    )
    assert tokenizer.decode(prompt.input_ids).endswith("<|im_start|>assistant\n")
    assert set(prompt.labels) == {-100}
    own = [{"role": "system", "content": "Mine."}, *question]
    assert render_prompt(own, tokenizer, [3], system="Count.") == render_prompt(own, tokenizer, [3])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ([], "empty"),
        (["system"], "0 turns"),
        (["user"], "1 turns"),
        (["assistant"], "'assistant'.*'user'"),
        (["user", "user"], "turn 2 of 2.*'user'.*'assistant'"),
        (["user", "assistant", "system", "assistant"], "'system'"),
        (["user", "tool"], "'tool'"),
    ],
)
def test_wrong_roles_are_refused(roles: list[str], message: str, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConversationError, match=message):
        render_chat([{"role": role, "content": "x"} for role in roles], tokenizer, [])


def test_content_that_is_no_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConversationError, match="message 1"):
        render_chat([{"role": "user", "content": "x"}, {"role": "assistant", "content": None}], tokenizer, [])  # type: ignore[dict-item]


def test_a_tokenizer_without_the_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    check_template(tokenizer)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0, "<img>": 1}, merges=[])))
    with pytest.raises(TemplateError, match=r"<\|im_start\|>, <\|im_end\|>, </img>, <IMG_CONTEXT>") as error:
        check_template(bare)
    assert " <img>" not in str(error.value)
