"""A required argument is never None because its class gives it no type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_standins import Data, Task, UntypedAimMeter

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]
Build = Callable[..., RecipeCLI]

TRAINER = "trainer: {logger: false, enable_checkpointing: false, enable_progress_bar: false, accelerator: cpu"


@pytest.fixture
def build(write: Write) -> Build:
    """Builds task, data and trainer from a recipe, and flags."""

    def make(text: str, *flags: str, trainer: str = "") -> RecipeCLI:
        write("r.yaml", f"{TRAINER}{trainer}}}\nmodel: {{width: 2}}\n{text}")
        return RecipeCLI("validate", sort_flags(["--config", "r.yaml", *flags]), Task, Data)

    return make


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model.aim", "recipe_standins.UntypedAim"],
            r"^model\.aim \(the command line\): recipe_standins\.UntypedAim needs a value for its argument head, which "
            r"has no default: set model\.aim\.init_args\.head$",
        ),
        (
            ["--model.aim", "{class_path: recipe_standins.UntypedAim, init_args: {head: lm}}"],
            r"UntypedAim needs a value for its argument mark",
        ),
        (
            ["--model.aim", "recipe_standins.Guided", "--model.aim.guides", "{a: recipe_standins.UntypedAim}"],
            r"^model\.aim\.init_args\.guides\.a \(the command line\): recipe_standins\.UntypedAim needs .* head",
        ),
        (
            ["--trainer.callbacks+", "recipe_standins.UntypedAimMeter"],
            r"^trainer\.callbacks .*UntypedAimMeter needs a value for its argument every",
        ),
        (
            ["--data", "recipe_standins.UntypedData"],
            r"\.UntypedData needs .* argument root, .*data\.root",
        ),
        (["--data", "recipe_standins.TypedData"], r"^recipe_standins\.TypedData: .* required: data\.root$"),
        (
            ["--model.aim", "recipe_standins.StrictAim"],
            r"^model\.aim .*\.StrictAim: .*required: head$",
        ),
    ],
)
def test_a_missing_argument_is_one_line_with_its_class(build: Build, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build("", *flags)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_given_are_accepted(build: Build) -> None:
    assert build("data: {class_path: recipe_standins.UntypedData, init_args: {root: a}}\n").datamodule.root == "a"
    assert build("data: {class_path: recipe_standins.UntypedData, init_args: {root: null}}\n").datamodule.root is None
    for value, found in (("3", 3), ("null", None)):
        meter = f", callbacks: [{{class_path: recipe_standins.UntypedAimMeter, init_args: {{every: {value}}}}}]"
        cli = build("", trainer=meter)
        assert [m.every for m in cli.trainer.callbacks if isinstance(m, UntypedAimMeter)] == [found]
