"""Contracts of samplers and selectors, which the numbered contract tests do not concern."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from mmcomponents.batch import Exact, PackedBatch
from mmcomponents.evaluation.selectors import Candidates, Selector
from mmcomponents.generation import Answer, Context, Sampler
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.case import Case
from mmcomponents.testing.packs import VOCAB_SIZE, join
from mmcomponents.testing.report import Findings, NotApplicable

_STOP = {2}

_ONE_LEVEL = 1 / 254
"""Difference that rounding makes in a picture: one of 256 levels."""


def answers_are_as_declared(case: Case, found: Findings) -> None:
    """Requires one answer per segment, of the declared kind, and that model and prompts stay as they were."""
    model, sampler, prompts = case.copied_model(), _sampler(case), case.mixed()
    before, trained = copy.deepcopy(prompts), {n for n, p in model.named_parameters() if p.requires_grad}
    answers = _answers(sampler, model, prompts)
    ids = [token for answer in answers for token in answer.ids or ()]
    if sampler.answers == "text":
        without = [number for number, answer in enumerate(answers) if answer.ids is None]
        found.true(not without, f"answers {without[:3]} of text have no token ids")
        found.true(any(answer.ids for answer in answers), "all answers are empty")
    outside = sorted({token for token in ids if not 0 <= token < VOCAB_SIZE})
    found.true(not outside, f"answers have the tokens {outside[:3]}, outside of the vocabulary of {VOCAB_SIZE}")
    found.true(not _STOP & set(ids), "an answer contains the stop token")
    for number, answer in enumerate(answers):
        finite = answer.values is None or bool(answer.values.isfinite().all())
        found.true(finite, f"answer {number} has values of NaN or infinity")
    changed = [name for name, old, new in _pairs("prompts", before, prompts) if not _same(old, new)]
    found.true(not changed, f"the sampler has changed {', '.join(changed[:3])}")
    found.true(not model.training, "the sampler has set the model to training mode")
    frozen = trained - {n for n, p in model.named_parameters() if p.requires_grad}
    found.true(not frozen, f"the sampler has frozen {len(frozen)} parameters")


def answers_do_not_depend_on_the_batch(case: Case, found: Findings) -> None:
    """Compares the answers of prompts in one pack with those of each prompt alone, in double precision."""
    model, sampler = case.copied_model().double(), _sampler(case)
    prompts = case.samples()
    together = _answers(sampler, model, join(*prompts))
    if together != _answers(sampler, model, join(*prompts), seed=1):
        raise NotApplicable("the sampler draws from the generator, which the batch shares")
    for number, (prompt, answer) in enumerate(zip(prompts, together, strict=False)):
        (alone,) = _answers(sampler, model, prompt)
        what = f"prompt {number}"
        if answer.values is not None and alone.values is not None:
            found.close(f"{what}: values in a batch, compared with those alone,", answer.values, alone.values)
        elif answer.picture is not None and alone.picture is not None:
            one, other = _levels(answer.picture), _levels(alone.picture)
            found.close(f"{what}: the picture in a batch, compared with that alone,", one, other, _ONE_LEVEL)
        else:
            found.true(answer == alone, f"{what}: {answer.ids} in a batch, {alone.ids} alone")


def answers_repeat(case: Case, found: Findings) -> None:
    """Requires the same answers from the same seed of the generator, whatever the global generator's state."""
    model, batch = case.copied_model(), case.mixed()
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(_answers(_sampler(case), model, batch))
    for number, (one, other) in enumerate(zip(*runs, strict=True)):
        differ = "" if one == other else _told(one, other)
        found.true(not differ, f"prompt {number}: two runs with the same generator give {differ}")


def _sampler(case: Case) -> Sampler:
    sampler = case.factory()
    assert isinstance(sampler, Sampler)
    return sampler


def _answers(sampler: Sampler, model: MultimodalModel, prompts: PackedBatch, seed: int = 0) -> list[Answer]:
    generator = torch.Generator().manual_seed(seed)
    return sampler.answer(model, prompts, Context(stop_ids=_STOP, generator=generator))


def _levels(picture: Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).astype(np.float64) / 255)


def _told(one: Answer, other: Answer) -> str:
    if one.kind != "values" or one.values is None or other.values is None:
        return f"{one.ids} and {other.ids}" if one.kind == "text" else "different pictures"
    if one.values.shape != other.values.shape:
        return f"values of the shapes {list(one.values.shape)} and {list(other.values.shape)}"
    return f"values that differ by {float((one.values.double() - other.values.double()).abs().max()):.2g}"


def _pairs(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields the name and both states of each field of a pack, at any depth."""
    if isinstance(old, Exact) and isinstance(new, Exact):
        yield from ((name, *both) for both in zip(old, new, strict=True))
    elif is_dataclass(old) and type(old) is type(new):
        for item in fields(old):
            yield from _pairs(f"{name}.{item.name}", getattr(old, item.name), getattr(new, item.name))
    elif isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _pairs(f"{name}[{key!r}]", old[key], new[key])
    else:
        yield name, old, new


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return torch.equal(old, new)
    return type(old) is type(new) and bool(old == new)


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
