"""Contracts of samplers and selectors, which the numbered contract tests do not concern."""

from __future__ import annotations

import torch

from mmcomponents.evaluation.selectors import Candidates, Selector
from mmcomponents.generation import Sampler
from mmcomponents.testing.case import Case
from mmcomponents.testing.packs import VOCAB_SIZE, join
from mmcomponents.testing.report import Findings, NotApplicable

_STOP = {2}


def answers_do_not_depend_on_the_batch(case: Case, found: Findings) -> None:
    """Compares the answers of prompts in one pack with those of each prompt alone, in double precision."""
    model, sampler = case.copied_model().double(), case.factory()
    assert isinstance(sampler, Sampler)
    prompts = case.samples()
    together = sampler(model, join(*prompts), _STOP, torch.Generator().manual_seed(0))
    if together != sampler(model, join(*prompts), _STOP, torch.Generator().manual_seed(1)):
        raise NotApplicable("the sampler draws from the generator, which the batch shares")
    found.true(len(together) == len(prompts), f"{len(prompts)} prompts, {len(together)} answers")
    found.true(any(together), "all answers are empty")
    outside = sorted({token for answer in together for token in answer if not 0 <= token < VOCAB_SIZE})
    found.true(not outside, f"answers have the tokens {outside[:3]}, outside of the vocabulary of {VOCAB_SIZE}")
    found.true(not model.training, "the sampler has set the model to training mode")
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    found.true(not frozen, f"the sampler has frozen {len(frozen)} parameters")
    for number, (prompt, answer) in enumerate(zip(prompts, together, strict=False)):
        alone = sampler(model, prompt, _STOP, torch.Generator().manual_seed(0))[0]
        found.true(answer == alone, f"prompt {number}: {answer} in a batch, {alone} alone")
        found.true(not _STOP & set(answer), f"prompt {number}: the answer {answer} contains the stop token")


def answers_repeat(case: Case, found: Findings) -> None:
    """Requires the same answers from the same seed of the generator, whatever the global generator's state."""
    model, batch = case.copied_model(), case.mixed()
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(case.factory()(model, batch, _STOP, torch.Generator().manual_seed(0)))
    found.true(runs[0] == runs[1], f"two runs with the same generator give {runs[0]} and {runs[1]}")


def choices_are_valid(case: Case, found: Findings) -> None:
    """Requires an index among the candidates, the same for the same candidates, from the first n candidates alone."""
    selector = case.factory()
    assert isinstance(selector, Selector)
    sets = {
        "different candidates": Candidates(
            ["a 1", "b 2", "c 1", "d 3"], ["1", "2", "1", "3"], _scores([0.2], [0.9, 0.4], [0.7], [0.1]), [0, 1, 0, 0]
        ),
        "no answers": Candidates(["a", "b"], [None, None], _scores([0.5], [0.5]), [0, 0]),
        "one candidate": Candidates(["a"], ["1"], _scores([0.1]), [0]),
    }
    for name, candidates in sets.items():
        choice = selector.choose(candidates)
        is_valid = type(choice) is int and 0 <= choice < len(candidates)
        found.true(is_valid, f"{name}: {choice} of {len(candidates)} candidates is chosen")
        found.true(choice == selector.choose(candidates), f"{name}: two calls choose differently")
        prefixes = [selector.choose(candidates.first(n + 1)) for n in range(len(candidates))]
        found.true(selector.choices(candidates) == prefixes, f"{name}: choices is {selector.choices(candidates)},"
                   f" choose on the first n candidates gives {prefixes}")  # fmt: skip
        if name != "different candidates":
            found.true(choice == 0, f"{name}: of equally good candidates, number {choice} is chosen, not the first")


def _scores(*steps: list[float]) -> dict[str, list[list[float]]]:
    return {"process": list(steps), "outcome": list(steps)}
