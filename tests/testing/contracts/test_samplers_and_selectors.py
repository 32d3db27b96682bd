from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.evaluation.selectors import Selector
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler
from mmcomponents.testing import check_component
from testing.contracts.broken import failure


class ByNumber(Autoregressive):
    """Appends the number of the prompt in its batch."""

    def forward(self, model, prompts, context):
        answers = super().forward(model, prompts, context)
        return [replace(answer, ids=[*answer.ids, number]) for number, answer in enumerate(answers)]


class GlobalGenerator(Autoregressive):
    def forward(self, model, prompts, context):
        return super().forward(model, prompts, replace(context, generator=torch.default_generator))


class OtherVocabulary(Autoregressive):
    """Returns ids past the vocabulary, and leaves the model in training mode."""

    def forward(self, model, prompts, context):
        model.train()
        return [Answer(ids=[9999]) for _ in range(prompts.num_segments)]


class KeepsTheStop(Autoregressive):
    def forward(self, model, prompts, context):
        answers = super().forward(model, prompts, context)
        return [replace(answer, ids=[*answer.ids, *context.stop_ids]) for answer in answers]


class ChangesThePrompts(Autoregressive):
    def forward(self, model, prompts, context):
        answers = super().forward(model, prompts, context)
        prompts.layout.image_id += 1
        prompts.keys.append("one more")
        return answers


class OneAnswer(Autoregressive):
    def forward(self, model, prompts, context):
        return super().forward(model, prompts, context)[:1]


class Points(Sampler):
    """Answers with the mean hidden state of each prompt, plus something that a test breaks.

    Args:
        scale: Factor of noise that is drawn from the generator of the context.
    """

    answers = "values"

    def __init__(self, scale: float = 0.0) -> None:
        super().__init__()
        self.scale = scale

    @torch.no_grad()
    def means(self, model: Any, prompts: PackedBatch) -> list[Tensor]:
        hidden = model(prompts).hidden
        return [part.mean(0)[:3] for part in hidden.split(prompts.layout.cu_seqlens.diff().tolist())]

    def forward(self, model, prompts, context):
        means = self.means(model, prompts)
        noise = [torch.randn(3, generator=context.generator) * self.scale for _ in means]
        return [Answer(values=mean + drawn) for mean, drawn in zip(means, noise, strict=True)]


class Shades(Points):
    """Answers with a picture of one colour, by the mean hidden state."""

    answers = "picture"

    def forward(self, model, prompts, context):
        means = self.means(model, prompts)
        return [Answer(picture=self.paint(mean, number)) for number, mean in enumerate(means)]

    def paint(self, mean: Tensor, number: int) -> Image.Image:
        return Image.new("RGB", (4, 2), tuple((mean.sigmoid() * 255).int().tolist()))


class ShiftedByNumber(Points):
    def forward(self, model, prompts, context):
        return [Answer(values=mean + number) for number, mean in enumerate(self.means(model, prompts))]


class ShadesByNumber(Shades):
    def paint(self, mean: Tensor, number: int) -> Image.Image:
        return super().paint(mean + number, number)


class NoisyWithoutGenerator(Points):
    def forward(self, model, prompts, context):
        return super().forward(model, prompts, Context())


class RandomShades(Shades):
    def paint(self, mean: Tensor, number: int) -> Image.Image:
        return super().paint(torch.randn(3), number)


class NoValues(Points):
    """Answers with an empty table, as a prompt without positions to fill has."""

    def forward(self, model, prompts, context):
        return [Answer(values=torch.zeros(0, 2)) for _ in self.means(model, prompts)]


class NotFinite(Points):
    def forward(self, model, prompts, context):
        return [Answer(values=mean / 0.0) for mean in self.means(model, prompts)]


class OtherKind(Points):
    answers = "picture"


class Last(Selector):
    def choose(self, candidates) -> int:
        return len(candidates) - 1


class Random(Selector):
    def choose(self, candidates) -> int:
        return random.randrange(10**6)


class SeesAll(Selector):
    def choose(self, candidates) -> int:
        return 0

    def choices(self, candidates) -> list[int]:
        return [len(candidates) - 1] * len(candidates)


@pytest.mark.parametrize(
    "sampler",
    [Points, Shades, NoValues, partial(Points, scale=1.0)],
    ids=["values", "pictures", "no values", "noise"],
)
def test_values_and_pictures_pass(sampler: Any) -> None:
    report = check_component("sampler", sampler)
    skipped = [result.test for result in report.results if result.status == "not applicable"]
    assert skipped == (["answers_do_not_depend_on_the_batch"] if isinstance(sampler, partial) else [])


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (ByNumber, "prompt 1: ["),
        (ShiftedByNumber, "prompt 1: values in a batch, compared with those alone, differs by"),
        (ShadesByNumber, "prompt 1: the picture in a batch, compared with that alone, differs by"),
    ],
)
def test_answers_that_depend_on_the_batch(sampler: Any, said: str) -> None:
    arguments = {"max_new_tokens": 3} if sampler is ByNumber else {}
    assert said in failure("answers_do_not_depend_on_the_batch", "sampler", partial(sampler, **arguments))


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (OtherVocabulary, "answers have the tokens [9999], outside of the vocabulary of 64"),
        (OtherVocabulary, "the sampler has set the model to training mode"),
        (KeepsTheStop, "an answer contains the stop token"),
        (ChangesThePrompts, "the sampler has changed prompts.layout.image_id, prompts.keys"),
        (OneAnswer, "the sampler OneAnswer returned 1 answer to "),
        (NotFinite, "answer 0 has values of NaN or infinity"),
        (OtherKind, "the sampler OtherKind answers with picture, as its `answers` says, and returned values"),
    ],
)
def test_answers_that_are_not_as_declared(sampler: Any, said: str) -> None:
    arguments = {"max_new_tokens": 3} if issubclass(sampler, Autoregressive) else {}
    assert said in failure("answers_are_as_declared", "sampler", partial(sampler, **arguments))


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (partial(GlobalGenerator, max_new_tokens=8, temperature=1.0), "two runs with the same generator give ["),
        (partial(NoisyWithoutGenerator, scale=1.0), "two runs with the same generator give values that differ by"),
        (RandomShades, "two runs with the same generator give different pictures"),
    ],
)
def test_answers_from_the_global_generator(sampler: Any, said: str) -> None:
    assert said in failure("answers_repeat", "sampler", sampler)


def test_selectors() -> None:
    assert "of equally good candidates, number 1 is chosen" in failure("choices_are_valid", "selector", Last)
    assert "of 4 candidates is chosen" in failure("choices_are_valid", "selector", Random)
    assert "choose on the first n candidates gives" in failure("choices_are_valid", "selector", SeesAll)
