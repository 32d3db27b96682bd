"""Streaming of text in final pieces."""

from __future__ import annotations

import pytest
from PIL import Image

from mmcomponents.generation.generate_text import generate, stream
from mmcomponents.generation.text_stream import TextStream


def pieces(tokenizer, text: str, stops: list[str]) -> tuple[list[str], TextStream]:
    streamed = TextStream(tokenizer, stops)
    given = [streamed.push(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    return [*given, streamed.finish()], streamed


@pytest.mark.parametrize("text", ["It is a cat, a dog or 7.", "naïve 你好 👩‍👩‍👧 é", "\n\n a  b\n"])
def test_the_pieces_are_the_text(tokenizer, text) -> None:
    given, streamed = pieces(tokenizer, text, [])
    assert "".join(given) == streamed.text == text
    assert not any("\ufffd" in piece for piece in given)
    assert sum(map(bool, given)) > 3


def test_bytes_that_are_no_text_come_out_as_the_tokenizer_writes_them(tokenizer) -> None:
    ids = tokenizer.encode("a👩", add_special_tokens=False)[:-1]
    streamed = TextStream(tokenizer)
    assert [streamed.push(i) for i in ids] == ["a", *[""] * (len(ids) - 1)]
    assert "a" + streamed.finish() == tokenizer.decode(ids) == streamed.text


@pytest.mark.parametrize(
    ("text", "stops", "wanted"),
    [
        ("a cat, a dog", [", a d"], "a cat"),
        ("a cat, a cow", [", a d"], "a cat, a cow"),
        ("aaab", ["aab"], "a"),
        ("a cat, a dog", ["dog", "cat"], "a "),
        ("你好, 好", ["好, "], "你"),
        ("a cat", ["", "cats"], "a cat"),
    ],
)
def test_no_part_of_a_stop_text_comes_out(tokenizer, text, stops, wanted) -> None:
    given, streamed = pieces(tokenizer, text, stops)
    assert "".join(given) == wanted
    assert streamed.ended == (wanted != text)


def test_stream_says_what_generate_says(tokenizer, writer, parrot) -> None:
    model, picture = writer(), Image.new("RGB", (40, 20))
    wanted = generate(model, tokenizer, ["What?"], [picture], max_new_tokens=12)
    assert ["".join(stream(model, tokenizer, "What?", picture, max_new_tokens=12))] == wanted
    drawn = {"max_new_tokens": 9, "temperature": 1.0, "top_k": 30, "seed": 3}
    assert "".join(stream(model, tokenizer, "7", **drawn)) == generate(model, tokenizer, ["7"], **drawn)[0]
    speaker = parrot("It is a cat, a dog<|im_end|>")
    assert "".join(stream(speaker, tokenizer, "?", stop=", a")) == "It is a cat"


def test_the_model_runs_as_pieces_are_taken(tokenizer, parrot) -> None:
    model = parrot("a b c d e f g h")
    model.train()
    taken = stream(model, tokenizer, "?", max_new_tokens=50)
    assert model.heads["lm"].calls == 0
    next(taken)
    assert 1 <= model.heads["lm"].calls < 5
    taken.close()
    del taken
    assert model.training
    with pytest.raises(ValueError, match="limit of 10"):
        stream(model, tokenizer, "What is this?", max_length=10)


def test_answers_side_by_side_leave_the_mode_alone(tokenizer, parrot) -> None:
    model = parrot("a b c d e f g h").train()
    first, second = (stream(model, tokenizer, "?", max_new_tokens=9) for _ in range(2))
    next(first)
    assert model.training
    next(second)
    assert model.backbone.training
    first.close()
    "".join(second)
    assert all(module.training for module in model.modules())
