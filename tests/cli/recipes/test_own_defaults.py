"""A class that replaces another has its own defaults, at any depth and in any part of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
import yaml
from recipe_standins import Aim, Data, Guided, OtherAim, OtherMeter, Task

from mmcomponents.cli.recipes.flags import apply, sort_flags
from mmcomponents.cli.recipes.own_defaults import RecipeParser
from mmcomponents.cli.recipes.recipe import load
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.recipes.sections import Sections
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]
Build = Callable[..., RecipeCLI]

BASE = """
trainer: {logger: false, enable_checkpointing: false, enable_progress_bar: false, accelerator: cpu, max_steps: 1}
model: {width: 2}
"""


@pytest.fixture
def build(write: Write) -> Build:
    """Builds task, data and trainer from a recipe over `BASE`, and flags."""
    write("base.yaml", BASE)

    def make(text: str, *flags: str, verb: str = "generate") -> RecipeCLI:
        write("r.yaml", "extends: base\n" + dedent(text))
        return RecipeCLI(verb, sort_flags(["--config", "r.yaml", *flags]), Task, Data)

    return make


def settings(cli: RecipeCLI) -> dict[str, Any]:
    return cli.model.make_optimizer([torch.nn.Parameter(torch.ones(1))]).param_groups[0]


@pytest.mark.parametrize("by_flag", [True, False])
@pytest.mark.parametrize("name", ["torch.optim.AdamW", "AdamW"])
def test_an_optimizer_has_its_own_defaults(build: Build, by_flag: bool, name: str) -> None:
    cli = build("", "--model.optimizer", name) if by_flag else build(f"model: {{optimizer: {name}}}")
    assert settings(cli)["weight_decay"] == 0.01  # that of SGD, the default of the task, is 0
    plain = settings(build(""))
    assert (plain["weight_decay"], plain["momentum"]) == (0, 0)


def test_an_objective_has_its_own_defaults(build: Build) -> None:
    cli = build("", "--model.aim", "recipe_standins.OtherAim")
    assert (cli.model.aim.head, cli.model.aim.scale) == ("rank", 2.0)
    cli = build("model: {aim: {class_path: recipe_standins.OtherAim, init_args: {scale: 5}}}")
    assert (cli.model.aim.head, cli.model.aim.scale) == ("rank", 5.0)
    with pytest.raises(UserError, match=r"^model.aim .*required: head"):
        build("model: {aim: recipe_standins.StrictAim}")


def test_a_nested_class_has_its_own_defaults(build: Build) -> None:
    guided = "model: {aim: {class_path: recipe_standins.Guided, init_args: {reference: recipe_standins.OtherAim}}}"
    objective = build(guided).model.aim
    assert (type(objective), objective.head) == (Guided, "guided")
    assert (type(objective.reference), objective.reference.head, objective.reference.scale) == (OtherAim, "rank", 2.0)
    objective = build(guided, "--model.aim.reference", "recipe_standins.Aim").model.aim
    assert (type(objective.reference), objective.reference.head, objective.reference.scale) == (Aim, "lm", 1.0)
    guides = "{a: {class_path: recipe_standins.OtherAim}, b: {class_path: recipe_standins.Aim}}"
    objective = build(guided, "--model.aim.guides", guides).model.aim
    assert [guide.head for guide in objective.guides.values()] == ["rank", "lm"]


def test_a_scheduler_and_a_callback_have_their_own_defaults(build: Build) -> None:
    text = """
    model:
      scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3, gamma: 0.7}}
    trainer:
      callbacks:
        - {class_path: recipe_standins.Meter, init_args: {every: 2, aim: recipe_standins.OtherAim}}
    """
    other = ["--model.scheduler", "ExponentialLR", "--model.scheduler.gamma", "0.5"]
    cli = build(text, *other, "--trainer.callbacks", "[recipe_standins.OtherMeter]", verb="fit")
    schedule = cli.model.make_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]))
    assert (type(schedule).__name__, schedule.gamma) == ("ExponentialLR", 0.5)
    meter = next(callback for callback in cli.trainer.callbacks if isinstance(callback, OtherMeter))
    assert (meter.every, type(meter.aim), meter.aim.head) == (9, OtherAim, "rank")
    with pytest.raises(UserError, match=r"required: gamma"):  # not that of the replaced one
        build(text, "--model.scheduler", "torch.optim.lr_scheduler.ExponentialLR")
    # The class of the last item is changed in place.
    cli = build(text, "--trainer.callbacks.class_path", "recipe_standins.OtherMeter", verb="fit")
    meter = next(callback for callback in cli.trainer.callbacks if isinstance(callback, OtherMeter))
    assert (meter.every, meter.aim.head) == (9, "rank")


@pytest.mark.parametrize(
    "arguments", ["{init_args: {lr: 0.5}}", "{lr: 0.5}", "{class_path: torch.optim.SGD, init_args: {lr: 0.5}}"]
)
def test_arguments_of_a_default_class_are_dropped_with_it(build: Build, write: Write, arguments: str) -> None:
    write("lr.yaml", f"extends: base\nmodel: {{optimizer: {arguments}}}\n")
    assert settings(build("", "--config", "lr.yaml"))["lr"] == 0.5

    def optimizer(text: str, *flags: tuple[str, str]) -> dict[str, Any]:
        write("delta.yaml", "extends: lr\n" + text)
        found = apply(load(["delta"], Sections({"model": Task})), list(flags)).resolved()["model"]["optimizer"]
        return {"class_path": found} if isinstance(found, str) else found

    adamw = {"class_path": "torch.optim.AdamW"}
    for text in ("torch.optim.AdamW", "{class_path: torch.optim.AdamW}"):
        assert optimizer(f"model: {{optimizer: {text}}}") == adamw
        assert optimizer("", ("model.optimizer", text)) == adamw
    assert optimizer("", ("model.optimizer.class_path", "torch.optim.AdamW")) == adamw
    # The default class itself keeps them.
    for text in ("torch.optim.SGD", "{class_path: torch.optim.SGD}"):
        assert optimizer(f"model: {{optimizer: {text}}}")["init_args"] == {"lr": 0.5}
        assert optimizer("", ("model.optimizer", text))["init_args"] == {"lr": 0.5}
    assert optimizer("", ("model.optimizer.class_path", "torch.optim.SGD"))["init_args"] == {"lr": 0.5}


def test_arguments_of_a_nested_default_class_are_dropped_with_it(build: Build, write: Write) -> None:
    guided = "{class_path: recipe_standins.Guided, init_args: {reference: {init_args: {head: mine}}}}"
    write("guided.yaml", f"extends: base\nmodel: {{aim: {guided}}}\n")
    delta = "model: {aim: {init_args: {reference: {class_path: recipe_standins.NAME}}}}\n"
    for name, head in (("Aim", "mine"), ("OtherAim", "rank")):
        write("delta.yaml", "extends: guided\n" + delta.replace("NAME", name))
        assert build("", "--config", "delta.yaml").model.aim.reference.head == head
        flags = ["--config", "guided.yaml", "--model.aim.reference.class_path", f"recipe_standins.{name}"]
        assert build("", *flags).model.aim.reference.head == head


def test_the_written_recipe_has_the_defaults_of_the_new_class(
    build: Build, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model.optimizer", "torch.optim.AdamW", "--model.aim", "recipe_standins.OtherAim"]
    with pytest.raises(SystemExit):
        build("", *flags, "--print_config")
    text = capsys.readouterr().out
    model = yaml.safe_load(text)["model"]
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert model["aim"]["init_args"] == {"head": "rank", "scale": 2.0}
    write("printed.yaml", text)
    assert build("", "--config", "printed.yaml").config.model.as_dict() == build("", *flags).config.model.as_dict()


class Typed:
    """Takes an objective by its class."""

    def __init__(self, aim: Aim, several: list[Aim] | None = None) -> None:
        self.aim, self.several = aim, several


def test_a_type_gives_no_defaults_to_its_subclasses() -> None:
    parser = RecipeParser(exit_on_error=False)
    parser.add_class_arguments(Typed, "typed")
    tree = {"aim": {"class_path": "recipe_standins.OtherAim"}, "several": ["recipe_standins.OtherAim"]}
    found = parser.parse_object({"typed": tree}).typed
    assert found.aim.init_args.head == found.several[0].init_args.head == "rank"
    assert parser.get_defaults().typed.several is None


class Guiding:
    """Takes an objective that has a reference by default."""

    def __init__(self, aim: Callable[[], Guided] = Guided) -> None:
        self.aim = aim


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("through_text", [True, False])
def test_a_class_inside_a_default_class_has_its_own_defaults(named: bool, through_text: bool) -> None:
    parser = RecipeParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Guiding, "guiding")
    aim: dict[str, Any] = {"init_args": {"reference": {"class_path": "recipe_standins.OtherAim"}}}
    if named:
        aim["class_path"] = "recipe_standins.Guided"
    tree = {"guiding": {"aim": aim}}
    with parser.replacing(tree):
        words = ["--config", json.dumps(tree)]
        found = parser.parse_args(words) if through_text else parser.parse_object(tree)
    assert found.guiding.aim.init_args.reference.init_args.as_dict() == {"head": "rank", "scale": 2.0}
    assert found.guiding.aim.init_args.head == "guided"


def test_a_member_of_an_enum_as_a_default_is_written_as_its_text(build: Build) -> None:
    cli = build("trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.Timer}]}", verb="fit")
    (timer,) = yaml.safe_load(cli.parser.dump(cli.config))["trainer"]["callbacks"]
    assert timer["init_args"]["interval"] == "step"
