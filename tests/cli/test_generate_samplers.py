"""Tests of `generate` with the samplers of recipes, which answer with values, pictures or complete texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from recipe_standins import Data, Task

import tiny
from mmcomponents.cli.generate import arguments_of
from mmcomponents.cli.runs import generate_run as generate_verb
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler
from mmcomponents.heads import LMHead

Write = Callable[[str, str], Path]


class PromptData(Data):
    """Data whose tokenizer and renderer the fixture `ask` sets."""

    tokenizer = None
    renderer = None


class Points(Sampler):
    """Answers with as many values as it is told, which are the number of the prompt.

    Args:
        count: Number of values.
        top_k: An argument that other samplers have too.
        divisor: Divisor of the values.
    """

    answers = "values"

    def __init__(self, count: int = 2, top_k: int = 0, divisor: float = 1.0) -> None:
        super().__init__()
        self.count, self.top_k, self.divisor = count, top_k, divisor

    def forward(self, model: Any, prompts: Any, context: Context) -> list[Answer]:
        assert not model.training
        values = [torch.full((self.count,), 0.5 + number) / self.divisor for number in range(prompts.num_segments)]
        return [Answer(values=value) for value in values]


class Painter(Sampler):
    """Answers with pictures whose height is the number of the prompt plus 1."""

    answers = "picture"

    def forward(self, model: Any, prompts: Any, context: Context) -> list[Answer]:
        return [Answer(picture=Image.new("RGB", (4, number + 1))) for number in range(prompts.num_segments)]


class WholeTexts(Sampler):
    """Answers with complete texts."""

    def forward(self, model: Any, prompts: Any, context: Context) -> list[Answer]:
        assert context.tokenizer is not None
        return [Answer(f"text {number}") for number in range(prompts.num_segments)]


class SampledTask(Task):
    """A task with a model that answers."""

    model: torch.nn.Module

    def __init__(self, *, sampler: Callable[[], Sampler] = Autoregressive) -> None:
        super().__init__()
        self.make_sampler = sampler

    def check(self, datamodule: Data) -> None:
        """Fits any data."""

    def configure_model(self) -> None:
        self.model = tiny.model(embedder=TokenEmbedder(400, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, 400)})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)


@pytest.fixture
def ask(write: Write, tokenizer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Returns a function that asks the model of a recipe with a sampler of this module."""
    monkeypatch.setattr(PromptData, "tokenizer", tokenizer)
    monkeypatch.setattr(PromptData, "renderer", SampleRenderer(tokenizer, 4, Tiling(tile_size=16)))
    task = SampledTask()
    task.configure_model()
    torch.save({"state_dict": task.state_dict()}, write("note", "").parent / "last.ckpt")

    def run(sampler: str, *argv: str) -> int:
        write("r.yaml", f"model: {{sampler: {sampler}}}")
        words = ["--config", "r.yaml", "--ckpt_path", "last.ckpt", *argv]
        return generate_verb.answer("generate", arguments_of("generate", words), SampledTask, PromptData)

    return run


POINTS, PAINTER, WHOLE = (f"{{class_path: {__name__}.{name}}}" for name in ("Points", "Painter", "WholeTexts"))


def test_the_sampler_of_the_recipe_answers(ask, capsys) -> None:
    assert ask("{class_path: Autoregressive, init_args: {max_new_tokens: 3}}", "--prompt", "What?", "7", "--json") == 0
    three = json.loads(capsys.readouterr().out)
    assert ask("{class_path: Autoregressive, init_args: {max_new_tokens: 9}}", "--prompt", "What?", "7", "--json",
               "--max_new_tokens", "3") == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out) == three
    assert ask("{class_path: Autoregressive, init_args: {max_new_tokens: 9}}", "--prompt", "What?", "7", "--json") == 0
    assert json.loads(capsys.readouterr().out) != three
    assert ask(WHOLE, "--prompt", "What?") == 0
    assert ask(WHOLE, "--prompt", "What?", "7") == 0
    assert capsys.readouterr().out == "text 0\ntext 0\ntext 1\n"


def test_values_are_printed_as_json(ask, capsys) -> None:
    assert ask(POINTS, "--prompt", "Where?", "7", "--image", write_picture(), "--top_k", "3") == 0
    assert capsys.readouterr().out == "[0.5, 0.5]\n[1.5, 1.5]\n"
    assert ask(POINTS, "--prompt", "Where?", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt": "Where?", "answer": [0.5, 0.5]}]
    odd = f"{{class_path: {__name__}.Points, init_args: {{divisor: 0}}}}"
    with pytest.raises(UserError, match="generate: 2 of 2 values of an answer are NaN or infinite"):
        ask(odd, "--prompt", "Where?")
    assert capsys.readouterr().out == ""


def write_picture() -> str:
    Image.new("RGB", (20, 20), "blue").save("b.png")
    return "b.png"


def test_pictures_are_written_into_a_folder(ask, capsys) -> None:
    assert ask(PAINTER, "--prompt", "a", "b", "--out", "made/pictures") == 0
    assert capsys.readouterr().out == "made/pictures/1.png\nmade/pictures/2.png\n"
    assert [Image.open(f"made/pictures/{number}.png").size for number in (1, 2)] == [(4, 1), (4, 2)]
    assert ask(PAINTER, "--prompt", "a", "--out", "made/pictures", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt": "a", "answer": "made/pictures/3.png"}]  # none is replaced


@pytest.mark.parametrize(
    ("sampler", "argv", "told"),
    [
        (PAINTER, [], "generate: the sampler Painter answers with pictures: add --out FOLDER for their files"),
        (PAINTER, ["--out", "r.yaml"], "generate: --out 'r.yaml' cannot be created: File exists"),
        (POINTS, ["--out", "o"], "--out is a folder for pictures, and the sampler Points answers with values"),
        (POINTS, ["--temperature", "1"], "generate: the recipe's sampler Points has no argument for --temperature"),
        (POINTS, ["--interactive"], "generate: --interactive needs a sampler that answers with text token by token, and"
         " Points answers with values"),
        (POINTS, ["--boxes", "o.png", "--image", "b.png"], "generate: --boxes needs an answer of text, and the sampler"
         " Points answers with values"),
        (WHOLE, ["--interactive"], "and WholeTexts has no steps: its texts come complete"),
        (WHOLE, ["--stop", "x"], "generate: --stop needs a sampler that answers with text token by token"),
        ("Autoregressive", ["--top_p", "2"], "generate: need temperature >= 0"),
    ],
)  # fmt: skip
def test_what_a_sampler_cannot_do_is_told_before_the_model_is_loaded(ask, sampler, argv, told) -> None:
    write_picture()
    Path("last.ckpt").write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        ask(sampler, "--prompt", "x", *argv)
    assert told in str(caught.value)
    assert not Path("o").exists()
