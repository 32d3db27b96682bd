from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from recipe_standins import Data, Task

from mmcomponents.cli import main as command
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.trainer import RecipeCLI, run
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]

RECIPE = """
seed_everything: 5
trainer: {max_steps: 2, accelerator: cpu, devices: 1, logger: false, enable_checkpointing: false,
          enable_progress_bar: false, enable_model_summary: false, default_root_dir: runs/x}
model:
  projector: {class_path: recipe_standins.Wide, init_args: {hidden: 7}}
  heads: {lm: {class_path: recipe_standins.Words, init_args: {chunk: 9}}}
  slots: {projector: {lr: 1e-3}}
  width: ${data.width}
data: {width: 3}
"""


@pytest.fixture
def recipe(write: Write) -> str:
    write("r.yaml", RECIPE)
    return "r.yaml"


@pytest.fixture
def short_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """Registers the stand-ins as parts of an installed package, which gives them short names."""
    write("site/standins-1.0.dist-info/METADATA", "Name: standins\nVersion: 1.0\n")
    names = [f"projector.{name} = recipe_standins:{name}\n" for name in ("Wide", "Narrow")]
    lines = ["[mmcomponents.components]\n", *names, "head.Words = recipe_standins:Words\n"]
    write("site/standins-1.0.dist-info/entry_points.txt", "".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def build(*argv: str, verb: str = "generate") -> RecipeCLI:
    """Builds task and data without a trainer."""
    return RecipeCLI(verb, sort_flags(list(argv)), Task, Data)


def refused(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        build("--config", "r.yaml", *argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_becomes_task_and_data(recipe: str) -> None:
    cli = build("--config", recipe)
    assert cli.model.part.sizes == (3, 1, 7)
    assert cli.model.heads["lm"].sizes == (3, 5, 9)
    assert cli.model.slots["projector"].lr == 1e-3
    assert cli.model.slots["projector"].trainable is True
    assert isinstance(cli.model.make_optimizer([torch.nn.Parameter(torch.ones(1))]), torch.optim.SGD)


@pytest.mark.usefixtures("short_names")
def test_a_flag_replaces_a_part_and_references_see_its_value(recipe: str) -> None:
    flags = ["--model.projector", "Narrow", "--model.projector.bias=false", "--data.width", "4", "--model.label", "5"]
    cli = build("--config", recipe, *flags, "--model.heads.lm.chunk", "2", "--model.slots.projector.trainable", "no")
    assert cli.model.part.sizes == (4, 1, False, 1)
    assert cli.model.heads["lm"].sizes == (4, 5, 2)
    assert cli.model.label == "5"  # text stays text
    assert cli.model.slots["projector"].trainable is False


def test_arguments_of_a_default_class_need_no_class(recipe: str) -> None:
    cli = build("--config", recipe, "--model.optimizer.lr", "0.25")
    optimizer = cli.model.make_optimizer([torch.nn.Parameter(torch.ones(1))])
    assert (type(optimizer), optimizer.param_groups[0]["lr"]) == (torch.optim.SGD, 0.25)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainr.max_steps", "1"], ["unknown key trainr", "the command line", "'trainer'"]),
        (["--trainer.max_step", "1"], ["unknown key trainer.max_step (the command line)", "'max_steps'"]),
        (["--model.projektor", "X"], ["unknown key model.projektor", "'projector'"]),
        (
            ["--model.projector.hiden", "1"],
            ["unknown key model.projector.init_args.hiden (the command line)", "'hidden'"],
        ),
        (["--model.slots.projector.trainble", "1"], ["unknown key model.slots.projector.trainble", "'trainable'"]),
        (["--model.optimizer", "{class_path: SGD, init_args: {momentun: 1}}"], ["init_args.momentun", "'momentum'"]),
        (["--model.optimizer.lrr", "1"], ["unknown key model.optimizer.init_args.lrr", "'lr'"]),
        (["--model.projector", "{class_path: recipe_standins.Wide, initargs: {}}"], ["initargs", "'init_args'"]),
        (["--trainer.callbacks+", "{class_path: Timer, init_args: {duratoin: 1}}"], ["'duration'"]),
        (["--model.projector", "recipe_standins.Wied"], ["has no Wied", "'Wide'"]),
        (["--model.projector", "nowhere.Wide"], ["model.projector (the command line): cannot import nowhere.Wide"]),
        (["--model.projector", "recipe_standins.Words"], ["recipe_standins.Words is not a projector, a subclass of "]),
        (["--model.optimizer", "AdamX"], ["model.optimizer", "AdamX", "did you mean 'Adam"]),
        (["--model.width", "abc"], ["model.width (the command line): Expected a int", "abc"]),
        (["--model.projector.hidden", "1.5"], ["hidden: Expected a int", "1.5"]),
        (["--model.projector.in_features", "3"], ["model.projector", "'in_features' is not accepted"]),
        (["--model.width", "8"], ["projector takes width 8, the data has 3"]),
    ],
)
def test_errors_are_one_line(recipe: str, flags: list[str], words: list[str]) -> None:
    message = refused(*flags)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.usefixtures("short_names")
def test_an_unknown_part_names_the_near_one(recipe: str, write: Write) -> None:
    assert "no projector is called 'Narow'; did you mean 'Narrow'?" in refused("--model.projector", "Narow")
    write("bad.yaml", "model: {heads: {lm: Word}}")
    message = refused("--config", "bad.yaml")
    assert message.startswith("model.heads.lm (bad.yaml): no head is called 'Word'; did you mean 'Words'?")


def test_an_unknown_key_names_its_file(recipe: str, write: Write) -> None:
    write("child.yaml", "extends: r.yaml\ndata: {batchsize: 2}\n")
    assert refused("--config", "child.yaml") == "unknown key data.batchsize (child.yaml); did you mean 'batch_size'?"


def test_the_resolved_recipe_is_printed_and_loads_again(
    recipe: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build("--config", recipe, "--data.width", "4", "--print_config", verb="fit")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    tree = yaml.safe_load(text)
    assert tree["model"]["width"] == 4
    assert tree["model"]["projector"] == {
        "class_path": "recipe_standins.Wide",
        "init_args": {"hidden": 7, "tag": "plain"},
    }
    assert tree["trainer"]["max_steps"] == 2
    write("printed.yaml", text)
    assert build("--config", "printed.yaml", verb="fit").model.part.sizes == (4, 1, 7)


def test_help_of_a_verb_lists_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build("--help", verb="test")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: mmcomponents test" in text
    assert "--ckpt_path" in text
    assert "--data.batch_size" in text


def test_fit_saves_its_recipe_and_a_checkpoint_overrides_nothing(
    recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--data.batch_size", "2", "--model.label", "first"]
    cli = run("fit", ["--config", recipe, *flags], Task, Data)
    assert cli.trainer.global_step == 2
    saved = tmp_path / "runs/x/recipe.yaml"
    tree = yaml.safe_load(saved.read_text())
    assert set(tree) == {"seed_everything", "trainer", "model", "data"}
    assert (tree["data"]["batch_size"], tree["model"]["width"]) == (2, 3)
    again = build("--config", "runs/x/recipe.yaml", verb="test")
    assert again.config.model.as_dict() == cli.config.model.as_dict()
    assert again.config.data.as_dict() == cli.config.data.as_dict()

    cli.trainer.save_checkpoint("last.ckpt")
    assert torch.load("last.ckpt", weights_only=True)["hyper_parameters"]["label"] == "first"
    saved.unlink()
    capsys.readouterr()
    argv = ["--config", recipe, "--model.label", "second", "--ckpt_path", "last.ckpt"]
    tested = run("test", argv, Task, Data)
    assert tested.model.label == "second"
    assert not saved.exists()  # the recipe of a run is that of its training
    printed = capsys.readouterr().err
    assert "trained with model.label = 'first'; the recipe's 'second' is used" in printed
    assert printed.count("the checkpoint was trained with") == 1
    assert torch.equal(tested.model.part.layer.weight, cli.model.part.layer.weight)

    with pytest.raises(UserError, match=r"there is no checkpoint 'lst.ckpt'; did you mean 'last.ckpt'\?"):
        run("test", ["--config", recipe, "--ckpt_path", "lst.ckpt"], Task, Data)


def test_a_verb_without_a_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="fit needs --config RECIPE"):
        build("--model.width", "3", verb="fit")


def test_a_long_recipe_with_arbitrary_text_is_parsed_unchanged(recipe: str, write: Write) -> None:
    names = [f"ä 😀 '{i}': \\ \" # x" for i in range(2000)]
    write("long.yaml", json.dumps({"extends": "r.yaml", "data": {"names": names}}, ensure_ascii=False))
    assert build("--config", "long.yaml").datamodule.names == names


def test_an_unknown_verb_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["fitt"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("mmcomponents: no verb 'fitt'; did you mean 'fit'?")
    assert command.main(["--help"]) == 0
    listing = capsys.readouterr().out
    assert [verb for verb in command.VERBS if f"\n  {verb} " not in listing] == []


def test_a_terminated_training_exits_with_143(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: object, **__: object) -> None:
        raise SIGTERMException

    monkeypatch.setattr(Trainer, "fit", terminated)
    with pytest.raises(SystemExit) as ended:
        run("fit", ["--config", recipe], Task, Data)
    assert ended.value.code == 143
