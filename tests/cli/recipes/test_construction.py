"""An error of a constructor is one line that names the class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_standins import Data, Task

from mmcomponents.cli.recipes.construction import naming_classes
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.component import WiringError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data", "recipe_standins.FailingData"],
            "FailingData cannot be constructed: RuntimeError: no root",
        ),
        (
            ["--model.aim", "recipe_standins.FailingAim"],
            "FailingAim cannot be constructed: KeyError: 'lm'",
        ),
        (
            ["--model.aim", "recipe_standins.FailingAim", "--model.aim.scale", "0"],
            "FailingAim cannot be constructed: no scale for lm",
        ),
        (
            ["--model.aim", "{class_path: recipe_standins.Guided, init_args: {reference: recipe_standins.FailingAim}}"],
            "FailingAim cannot be constructed: KeyError: 'lm'",
        ),
        (
            ["--trainer.callbacks+", "recipe_standins.FailingMeter"],
            "FailingMeter cannot be constructed: RuntimeError: no meter",
        ),
        (["--model.aim", "recipe_standins.FailingAim", "--model.aim.scale", "-1"], "model.aim.scale is negative"),
    ],
)
def test_an_error_of_a_constructor_names_its_class(
    write: Callable[[str, str], Path], flags: list[str], message: str
) -> None:
    write("r.yaml", "trainer: {accelerator: cpu}\nmodel: {width: 2}\n")
    with pytest.raises(UserError) as caught:
        RecipeCLI("fit", sort_flags(["--config", "r.yaml", *flags]), Task, Data)
    prefix = "" if message.startswith("model.") else "recipe_standins."
    assert str(caught.value) == prefix + message, "the class is left out where the message begins with the key"


def test_an_error_outside_a_constructor_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^later$"), naming_classes():
        raise RuntimeError("later")

    def refuse() -> None:
        raise WiringError("a does not fit b")

    with pytest.raises(WiringError, match=r"^a does not fit b$"), naming_classes() as [(construct, _, _)]:
        construct(refuse)
