import copy
import random
import re
import unicodedata
from itertools import chain
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from data.conftest import golden
from mmcomponents.data.chat import template as chat_module
from mmcomponents.data.chat.placeholders import place_image
from mmcomponents.data.chat.special_tokens import (
    CONTROL_TOKENS,
    GROUNDING_TOKENS,
    ConversationError,
    TemplateError,
    check_template,
)
from mmcomponents.data.chat.template import render_chat, render_prompt

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


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_control_text_may_be_refused(role: str, token: str, qwen: PreTrainedTokenizerFast) -> None:
    texts = {"system": "s", "user": "<ref>q</ref>", "assistant": "<box>[[1, 2, 3, 4]]</box>"}
    chat = [{"role": r, "content": text} for r, text in texts.items()]
    assert render_chat(chat, qwen, [], control_text="refuse") == render_chat(chat, qwen, [])
    number = list(texts).index(role)
    chat[number] = {"role": role, "content": f"look {token} there"}
    message = f"message {number + 1}, of the {role}, contains the control token {re.escape(token)} .* character 5"
    with pytest.raises(ConversationError, match=message):
        render_chat(chat, qwen, [], control_text="refuse")
    with pytest.raises(ConversationError, match=message):
        render_prompt([*chat, {"role": "user", "content": "x"}], qwen, [], control_text="refuse")
    assert render_chat(chat, qwen, []).image_spans == []


def test_the_choice_of_control_text_is_one_of_two(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="encode or refuse, not 'drop'"):
        render_prompt([{"role": "user", "content": "x"}], tokenizer, [], control_text="drop")  # type: ignore[arg-type]


def test_other_special_tokens_are_control_tokens_too(qwen: PreTrainedTokenizerFast) -> None:
    own = [token for token in qwen.get_added_vocab() if token not in (*CONTROL_TOKENS, *GROUNDING_TOKENS)]
    assert len(own) > 5, "Qwen has tokens of its own"
    text = " ".join(own)
    chat = render_prompt([{"role": "user", "content": text}], qwen, [])
    assert not {qwen.convert_tokens_to_ids(token) for token in own} & set(chat.input_ids)
    assert text in qwen.decode(chat.input_ids)
    for token in own:
        with pytest.raises(ConversationError, match=re.escape(token)):
            render_prompt([{"role": "user", "content": token}], qwen, [], control_text="refuse")


def test_no_mix_of_texts_gives_a_control_token(qwen: PreTrainedTokenizerFast) -> None:
    draw = random.Random(0)
    own = [token for token in qwen.get_added_vocab() if token not in GROUNDING_TOKENS]
    halves = [part for token in own for part in (token[: len(token) // 2], token[len(token) // 2 :])]
    tricks = [
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u0338",
        "\u212a",
        "\u202e",
        "\x00",
        "\n",
        " ",
        "<",
        "|",
        ">",
        "\U0001f600",
    ]
    wide = [
        "＜｜im_end｜＞",
        "<\u200b|im_end|>",
        "<|im_end\u0301|>",
        "〈|im_start|〉",
        "<|IM_END|>",
        "&lt;|im_end|&gt;",
    ]
    parts = [*own, *halves, *tricks, *wide, *GROUNDING_TOKENS, "user\n", "assistant\n", "system\n", "word"]
    control = {qwen.convert_tokens_to_ids(token) for token in own}
    roles = ("system", "user", "assistant")
    plain = [{"role": role, "content": "x"} for role in roles]
    wanted = [number for number in render_chat(plain, qwen, []).input_ids if number in control]
    refused = 0
    for _ in range(500):
        texts = ["".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in roles]
        chat = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        rendered = render_chat(chat, qwen, [])
        assert [number for number in rendered.input_ids if number in control] == wanted, texts
        assert rendered.image_spans == []
        shown = unicodedata.normalize("NFC", qwen.decode(rendered.input_ids))
        assert all(unicodedata.normalize("NFC", text) in shown for text in texts), texts
        holds = any(token in text for token in own for text in texts)
        try:
            assert render_chat(chat, qwen, [], control_text="refuse") == rendered
            assert not holds
        except ConversationError:
            assert holds
            refused += 1
    assert 100 < refused < 500


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


@pytest.mark.parametrize("begun", ["4", "\n 4 and", "a <|im_end|> in it", "", "<image>"])
def test_an_answer_that_is_continued_is_the_beginning_of_the_chat(begun, tokenizer: PreTrainedTokenizerFast) -> None:
    question = [{"role": "user", "content": "<image>\nHow many?"}]
    prompt = render_prompt(question, tokenizer, [3], prefix=begun)
    chat = render_chat([*question, {"role": "assistant", "content": begun}], tokenizer, [3])
    assert prompt.input_ids == chat.input_ids[: -1 - len(tokenizer.encode("\n", add_special_tokens=False))]
    assert set(prompt.labels) == {-100}
    if "<|im_end|>" in begun:
        with pytest.raises(ConversationError, match="message 2, of the assistant, contains the control token"):
            render_prompt(question, tokenizer, [3], control_text="refuse", prefix=begun)


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
    with pytest.raises(ConversationError, match="message 2 is not"):
        render_chat([{"role": "user", "content": "x"}, {"role": "assistant", "content": None}], tokenizer, [])  # type: ignore[dict-item]


def test_a_tokenizer_without_the_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    check_template(tokenizer)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0, "<img>": 1}, merges=[])))
    with pytest.raises(TemplateError, match=r"<\|im_start\|>, <\|im_end\|>, </img>, <IMG_CONTEXT>") as error:
        check_template(bare)
    assert " <img>" not in str(error.value)


def test_a_tokenizer_of_text_alone_renders_conversations_without_images(tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = {"<|im_start|>": 0, "<|im_end|>": 1, "user": 2, "x": 3, "\n": 4, "assistant": 5}
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocab=vocab, unk_token="x")))
    check_template(bare, images=False)
    with pytest.raises(TemplateError, match="lacks 3 of them: <img>"):
        check_template(bare)
    render_prompt([{"role": "user", "content": "x"}], bare, [])
    with pytest.raises(TemplateError, match="lacks 3 of them"):
        render_prompt([{"role": "user", "content": "<image>"}], bare, [4])


def test_text_that_is_no_unicode_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConversationError, match="message 1 is not valid UTF-8"):
        render_prompt([{"role": "user", "content": "caf\udce9"}], tokenizer, [])


def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each text that a tokenizer is asked to encode from now on."""
    asked: list[str] = []
    encode = PreTrainedTokenizerFast._encode_plus

    def noting(self: PreTrainedTokenizerFast, text: Any, *rest: Any, **options: Any) -> Any:
        asked.extend([text] if isinstance(text, str) else text)
        return encode(self, text, *rest, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", noting)
    return asked


def exchange(question: str, answer: str = "Yes.") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_texts_that_come_again_are_not_tokenised_again(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = exchange("Is it new? <|im_end|>")
    asked = tokenised(monkeypatch)
    first = render_chat(chat, tokenizer, [])
    assert "assistant\nYes." in asked
    asked.clear()
    assert render_chat(chat, tokenizer, []) == first
    assert asked == []
    first.input_ids[:] = [0]
    assert render_chat(chat, tokenizer, []).input_ids != [0], "what is remembered is nobody else's"
    render_chat(exchange("Is it another one?"), tokenizer, [])
    assert asked == ["user\nIs it another one?"]


def test_few_and_short_texts_are_remembered(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcomponents.data.chat.template._MOST_KNOWN", 20)
    known = chat_module._Texts(tokenizer)
    plain = {text: tuple(tokenizer.encode(text, add_special_tokens=False)) for text in map(str, range(200))}
    for text, ids in plain.items():
        assert known.encode(["often", text]) == {"often": known.encode(["often"])["often"], text: ids}
        assert len(known.younger) + len(known.older) <= 20
    asked = tokenised(monkeypatch)
    known.encode(["often", "199"])
    assert asked == []
    known.encode(["5"])
    assert asked == ["5"]
    long = "long " * 100
    known.encode([long])
    assert long not in known.younger


def test_a_token_that_is_added_later_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    own = copy.deepcopy(tokenizer)
    chat = exchange("<new>")
    before = render_chat(chat, own, [])
    own.add_tokens(["<new>"])
    after = render_chat(chat, own, [])
    assert own.convert_tokens_to_ids("<new>") in after.input_ids
    assert len(after.input_ids) < len(before.input_ids)
