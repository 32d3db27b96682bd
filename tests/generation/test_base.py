"""Answers, and the checks of what a sampler returns."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler
from mmcomponents.generation.base import check_tokens, decodes_tokens

PROMPTS = [[("t", 3)], [("t", 5)]]


class Made(Sampler):
    """Returns what it is given."""

    answers = "values"

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def forward(self, model: Any, prompts: Any, context: Context) -> Any:
        return self.made


class Takes(Sampler):
    def forward(self, model: Any, prompts: Any) -> Any:
        return []


class TakesStops(Sampler):
    def forward(self, model: Any, prompts: Any, stop_ids: Any, generator: Any = None) -> Any:
        return [[1], [2]]


class Unknown(Made):
    answers = "audio"

    def __init__(self) -> None:
        super().__init__([VALUES, VALUES])


class Undecoded(Sampler):
    def forward(self, model: Any, prompts: Any, context: Context) -> list[Answer]:
        return [Answer(ids=[5]), Answer("five", [5])]


class Steps(Autoregressive):
    answers = "values"


VALUES = Answer(values=torch.ones(2))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Made([[1], [2]]), r"the sampler Made returned a list in place of an Answer: a sampler has forward\(model, p"),
        (Made("ab"), "the sampler Made returned a str in place of an Answer"),
        (Made(None), "the sampler Made returned a NoneType in place of an Answer"),
        (Made([VALUES]), "the sampler Made returned 1 answer to 2 prompts: it must return one for each segment"),
        (Made([VALUES, Answer("a")]), "Made answers with values, as its `answers` says, and returned text"),
        (Takes(), r"the sampler Takes takes \(model, prompts\): a sampler has forward\(model, prompts, context\)"),
        (Unknown(), "the sampler Unknown declares answers = 'audio': the kinds of answers are text, picture, values$"),
        (TakesStops(), "the sampler TakesStops takes stop_ids; they are in `context.stop_ids`: a sampler has forward"),
    ],
)
def test_a_sampler_that_does_not_return_what_it_declares(sampler: Sampler, message: str) -> None:
    with pytest.raises(WiringError, match=message) as caught:
        sampler.answer(tiny.model(), tiny.pack(*PROMPTS), Context())
    assert "\n" not in str(caught.value)


def test_answers_that_fit_are_returned() -> None:
    assert Made([VALUES, VALUES]).answer(tiny.model(), tiny.pack(*PROMPTS), Context()) == [VALUES, VALUES]


def test_text_is_decoded_with_the_tokenizer_of_the_context() -> None:
    class Words:
        def decode(self, ids: list[int]) -> str:
            return "-".join(map(str, ids))

    model, batch, sampler = tiny.model(), tiny.pack(*PROMPTS), Autoregressive(5)
    ids = [answer.ids for answer in sampler(model, batch, Context())]
    stop = ids[0][2]
    first, second = sampler.answer(model, batch, Context(Words(), {stop}))  # type: ignore[arg-type]
    assert first.ids == ids[0][: ids[0].index(stop)]
    assert (first.text, second.text) == tuple("-".join(map(str, answer.ids)) for answer in (first, second))
    with pytest.raises(ValueError, match="token ids and no text: give the sampler's context a tokenizer"):
        sampler(model, batch, Context())[0].shown()


def test_stop_ids_in_place_of_the_context_are_an_error() -> None:
    with pytest.raises(TypeError, match=r"takes context: Context of mmcomponents\.generation\.base, got set"):
        Autoregressive(5)(tiny.model(), tiny.pack(*PROMPTS), {1})


def test_an_answer_is_exactly_one_thing() -> None:
    picture = Image.new("L", (2, 2))
    assert [Answer("").kind, Answer(ids=[]).kind, Answer(picture=picture).kind, VALUES.kind] == [
        "text", "text", "picture", "values",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="got none of them"):
        Answer()
    with pytest.raises(ValueError, match="got text and values"):
        Answer("a", values=torch.ones(1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": 5}, "the text of an answer is a str, got an int"),
        ({"ids": torch.tensor([1])}, r"the ids of an answer are a list of int: use tolist\(\) of a tensor"),
        ({"ids": ["a"]}, "the ids of an answer are a list of int"),
        ({"values": np.ones(2)}, "the values of an answer are a tensor, got a ndarray: use torch.as_tensor"),
        ({"values": [1, 2]}, "the values of an answer are a tensor, got a list"),
        ({"values": torch.ones(2, dtype=torch.complex64)}, "the values of an answer are complex"),
        ({"values": torch.ones(2), "text": "a"}, "got text and values"),
        ({"picture": np.zeros((4, 4, 3), np.uint8)}, "the picture of an answer is a PIL image, got a ndarray: use "),
        ({"picture": Image.new("RGB", (0, 3))}, "the picture of an answer has 0 x 3 pixels"),
        ({"picture": Image.new("F", (4, 4))}, "the picture of an answer has the mode F: convert it to RGB or L, or"),
        ({"picture": Image.new("I;16", (4, 4))}, "the picture of an answer has the mode I;16"),
    ],
)
def test_an_answer_of_another_type_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WiringError, match=message) as caught:
        Answer(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "held"), [("RGB", "RGB"), ("1", "1"), ("P", "P"), ("CMYK", "RGB"), ("HSV", "RGB"), ("YCbCr", "RGB")]
)
def test_pictures_are_of_a_mode_that_png_files_have(mode: str, held: str) -> None:
    picture = Answer(picture=Image.new(mode, (2, 2))).picture
    assert picture is not None
    assert picture.mode == held
    picture.save(io.BytesIO(), "png")
    picture.convert("RGB")


def test_ids_without_text_are_refused_where_there_is_a_tokenizer() -> None:
    model, batch = tiny.model(), tiny.pack(*PROMPTS)
    assert len(Undecoded().answer(model, batch, Context())) == 2
    with pytest.raises(WiringError, match="Undecoded returned token ids without their text: decode them with context"):
        Undecoded().answer(model, batch, Context(object()))  # type: ignore[arg-type]


def test_values_are_shown_as_nested_lists() -> None:
    bf16 = torch.tensor([[0.5, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    shown = [Answer(values=value).shown() for value in (bf16, torch.tensor(3), torch.tensor([True]), torch.zeros(0, 2))]
    assert json.loads(json.dumps(shown)) == [[[0.5, 2.0]], 3, [True], []]
    assert Answer(picture=Image.new("L", (2, 2))).shown() is None
    for odd in (torch.nan, -torch.inf):
        with pytest.raises(NonFiniteError, match="1 of 2 values of an answer are NaN or infinite"):
            Answer(values=torch.tensor([0.0, odd])).shown()


def test_answers_are_compared_by_content() -> None:
    one = Answer("a", [1])
    assert one == Answer("a", [1]) != Answer("a", [2])
    assert VALUES == Answer(values=torch.ones(2)) != Answer(values=torch.ones(2, dtype=torch.float64))
    assert one != VALUES
    red, blue = (Answer(picture=Image.new("RGB", (2, 2), colour)) for colour in ("red", "blue"))
    assert red == Answer(picture=Image.new("RGB", (2, 2), "red")) != blue


def test_samplers_of_tokens() -> None:
    assert decodes_tokens(Autoregressive())
    assert not decodes_tokens(Steps())
    assert check_tokens(sampler := Autoregressive(), "evaluate") is sampler
    with pytest.raises(WiringError, match="token by token, and Steps answers with values"):
        check_tokens(Steps(), "evaluate")
    with pytest.raises(WiringError, match="Takes has no steps: its texts come complete"):
        check_tokens(Takes(), "evaluate")
