from __future__ import annotations

import random

from mmcomponents.evaluation.selectors import Selector
from mmcomponents.generation import Autoregressive
from testing.contracts.broken import failure


class ByNumber(Autoregressive):
    """Appends the number of the prompt in its batch."""

    def forward(self, model, prompts, stop_ids, generator=None):
        answers = super().forward(model, prompts, stop_ids, generator)
        return [[*answer, number] for number, answer in enumerate(answers)]


class GlobalGenerator(Autoregressive):
    def forward(self, model, prompts, stop_ids, generator=None):
        return super().forward(model, prompts, stop_ids, None)


class OtherVocabulary(Autoregressive):
    """Returns ids past the vocabulary, and leaves the model in training mode."""

    def forward(self, model, prompts, stop_ids, generator=None):
        model.train()
        return [[9999] for _ in range(prompts.num_segments)]


class KeepsTheStop(Autoregressive):
    def forward(self, model, prompts, stop_ids, generator=None):
        return [[*answer, *stop_ids] for answer in super().forward(model, prompts, stop_ids, generator)]


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


def test_answers_that_depend_on_the_batch() -> None:
    name = "answers_do_not_depend_on_the_batch"
    assert "prompt 1: [" in failure(name, "sampler", lambda: ByNumber(max_new_tokens=3))
    said = failure(name, "sampler", lambda: OtherVocabulary(max_new_tokens=3))
    assert "answers have the tokens [9999], outside of the vocabulary of 64" in said
    assert "the sampler has set the model to training mode" in said
    assert "contains the stop token" in failure(name, "sampler", lambda: KeepsTheStop(max_new_tokens=3))


def test_answers_from_the_global_generator() -> None:
    said = failure("answers_repeat", "sampler", lambda: GlobalGenerator(max_new_tokens=8, temperature=1.0))
    assert "two runs with the same generator" in said


def test_selectors() -> None:
    assert "of equally good candidates, number 1 is chosen" in failure("choices_are_valid", "selector", Last)
    assert "of 4 candidates is chosen" in failure("choices_are_valid", "selector", Random)
    assert "choose on the first n candidates gives" in failure("choices_are_valid", "selector", SeesAll)
