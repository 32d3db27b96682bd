"""Tests of MPO and its reference in a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.objectives import MPO, AdaptersOff, FrozenReference, StoredReference
from mmcomponents.training import MultimodalTask

Write = Callable[[str, str], Path]


def objective(write: Write, text: str) -> MPO:
    """Returns the objective of a recipe."""
    adapter = "{class_path: peft.LoraConfig, init_args: {r: 2, target_modules: [q_proj]}}"
    frozen = ", ".join(f"{slot}: {{trainable: false}}" for slot in ("vision", "projector", "embedder", "heads"))
    slots = f"{{backbone: {{adapter: {adapter}}}, {frozen}}}" if "AdaptersOff" in text else "null"
    write("mpo.yaml", f"extends: quickstart\nmodel: {{objective: {text}, slots: {slots}}}\n")
    cli = RecipeCLI("plan", sort_flags(["--config", "mpo.yaml"]), MultimodalTask, None)
    made, again = cli.model.make_objective(), cli.model.make_objective()
    assert isinstance(made, MPO)
    assert made.reference is not again.reference
    return made


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{class_path: MPO}", StoredReference),
        ("{class_path: MPO, init_args: {reference: {class_path: FrozenReference}}}", FrozenReference),
        ("{class_path: MPO, init_args: {reference: AdaptersOff}}", AdaptersOff),
        (
            "{class_path: mmcomponents.objectives.MPO,"
            " init_args: {reference: {class_path: mmcomponents.objectives.FrozenReference}}}",
            FrozenReference,
        ),
    ],
)
def test_a_recipe_names_the_reference(write: Write, text: str, kind: type) -> None:
    assert type(objective(write, text).reference) is kind


def test_a_recipe_sets_the_weights(write: Write) -> None:
    made = objective(write, "{class_path: MPO, init_args: {beta: 0.5, bco_weight: 0, label_smoothing: 0.1}}")
    assert (made.beta, made.dpo_weight, made.bco_weight, made.label_smoothing) == (0.5, 0.8, 0.0, 0.1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{class_path: MPO, init_args: {refrence: FrozenReference}}", "did you mean 'reference'"),
        ("{class_path: MPO, init_args: {reference: FrozenRefrence}}", "reference"),
    ],
)
def test_a_mistake_is_told_in_one_line(write: Write, text: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        objective(write, text)
    assert "\n" not in str(caught.value)
