from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from recipe_standins import SAVING, Data, OtherData, Task

from mmcomponents.checkpoints.runs import run_lock
from mmcomponents.cli import main as command
from mmcomponents.cli.recipes.differences import differences, report_differences
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.trainer import run
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]


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
        (
            ["--model.projector.hidden", "1.5"],
            ["model.projector.init_args.hidden (the command line): Expected a int", "1.5"],
        ),
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
    assert tree["model"]["width"] == "${data.width}"
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
    assert (tree["data"]["batch_size"], tree["model"]["width"]) == (2, "${data.width}")
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


def test_a_run_with_another_data_class_can_be_repeated_from_its_recipe(recipe: str, write: Write) -> None:
    write("other.yaml", "extends: r\ndata: {class_path: recipe_standins.OtherData, init_args: {width: 3}}\n")
    cli = run("fit", ["--config", "other.yaml", "--data.length", "5"], Task, Data)
    assert type(cli.datamodule) is OtherData
    tree = yaml.safe_load(Path("runs/x/recipe.yaml").read_text())
    assert tree["data"]["class_path"] == "recipe_standins.OtherData"
    assert tree["data"]["init_args"] == {"width": 3, "length": 5, "allow_pipe": False}
    assert tree["model"]["width"] == "${data.width}"
    again = run("test", ["--config", "runs/x/recipe.yaml", "--data.length", "2"], Task, Data)
    assert (type(again.datamodule), again.datamodule.length, again.model.hparams["width"]) == (OtherData, 2, 3)


@pytest.mark.parametrize(
    ("flags", "answers", "suggested"),
    [
        ([], "text", []),
        (["--data", "recipe_standins.TestedData"], "text", []),
        (["--data", "recipe_standins.TestedData", "--data.test", "x"], "text", ["mmcomponents test"]),
        (["--data", "recipe_standins.TestedData", "--data.test", "x"], "values", ["mmcomponents predict"]),
    ],
)
def test_the_next_command_is_one_that_the_recipe_has_data_for(
    recipe: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    answers: str,
    suggested: list[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/mmcomponents"])
    monkeypatch.setattr(Task, "sampler", SimpleNamespace(answers=answers), raising=False)
    run("fit", ["--config", recipe, *SAVING, "--model.width", "3", *flags], Task, Data)
    text = capsys.readouterr().out
    assert re.findall("mmcomponents (?:test|predict)", text) == suggested
    assert "mmcomponents fit" in text


def test_a_folder_keeps_the_recipe_of_its_checkpoint_until_the_next_one(recipe: str, monkeypatch) -> None:
    saving = ["--config", recipe, *SAVING]
    run("fit", [*saving, "--model.label", "first"], Task, Data)
    saving += ["--ckpt_path", "runs/x/last.ckpt", "--trainer.max_steps", "4"]
    saved = Path("runs/x/recipe.yaml")
    checkpoint = Path("runs/x/last.ckpt")

    def labels() -> tuple[str, str]:
        weights = torch.load(checkpoint, weights_only=True)
        return yaml.safe_load(saved.read_text())["model"]["label"], weights["hyper_parameters"]["label"]

    assert labels() == ("first", "first")

    def fail(self: Task, *_: Any) -> None:
        raise RuntimeError("the run ends before its first checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(Task, "training_step", fail)
        with pytest.raises(RuntimeError, match="before its first checkpoint"):
            run("fit", [*saving, "--model.label", "second"], Task, Data)
    assert labels() == ("first", "first")
    run("fit", [*saving, "--model.label", "third"], Task, Data)
    assert labels() == ("third", "third")


def test_a_new_run_has_a_folder_without_checkpoints_of_its_own(recipe: str, caplog) -> None:
    below = '"${trainer.default_root_dir}/checkpoints"'
    saving = ["--config", recipe, *(flag.replace("runs/x", below) for flag in SAVING)]

    def fit(*flags: str) -> str:
        caplog.clear()
        return str(run("fit", [*saving, *flags], Task, Data).trainer.default_root_dir)

    assert fit() == "runs/x"
    first = Path("runs/x/checkpoints/last.ckpt").read_bytes()
    assert fit("--model.label", "second") == "runs/x-v1"
    assert "runs/x holds a run with another model.label: this run writes to runs/x-v1" in caplog.text
    assert fit("--seed_everything", "6") == "runs/x-v2"
    assert fit("--model.label", "second") == "runs/x-v3"
    assert fit("--config", "runs/x-v1/recipe.yaml") == "runs/x-v1-v1"
    assert fit() == "runs/x-v4"
    goes_on = "--ckpt_path runs/x/checkpoints/last.ckpt goes on from there"
    assert f"runs/x holds checkpoints of this recipe ({goes_on}): this run writes to runs/x-v4" in caplog.text
    assert Path("runs/x/checkpoints/last.ckpt").read_bytes() == first
    shutil.rmtree("runs/x-v4/checkpoints")  # as of a run that ended before its first checkpoint
    assert fit() == "runs/x-v4"
    resumed = ["--model.label", "third", "--ckpt_path", "runs/x/checkpoints/last.ckpt", "--trainer.max_steps", "3"]
    assert fit(*resumed, "--trainer.default_root_dir", "runs/x-v2") == "runs/x-v2-v1"  # a checkpoint of another folder
    assert fit(*resumed) == "runs/x"
    run("test", ["--config", recipe, "--model.label", "second"], Task, Data)
    assert {path.name for path in Path("runs").iterdir()} == {
        *(f"x{n}" for n in ("", "-v1", "-v1-v1", "-v2", "-v2-v1", "-v3", "-v4"))
    }


def test_checkpoints_of_another_run_in_another_folder_are_kept(recipe: str) -> None:
    """The folder of the run is new, and its checkpoints go where those of another run are."""
    run("fit", ["--config", recipe, *SAVING], Task, Data)
    again = ["--config", recipe, *SAVING, "--trainer.default_root_dir", "runs/y"]
    with pytest.raises(UserError, match=r"runs/x has checkpoints of another run, which this one would overwrite"):
        run("fit", again, Task, Data)
    run("fit", [*again, "--ckpt_path", "runs/x/last.ckpt", "--trainer.max_steps", "3"], Task, Data)
    with pytest.raises(UserError, match="has checkpoints of another run"):
        run("fit", ["--config", recipe, *SAVING, "--trainer.default_root_dir", "null"], Task, Data)
    deep = ["--config", recipe, *(flag.replace("runs/x", "runs/z/out/checkpoints") for flag in SAVING)]
    run("fit", [*deep, "--trainer.default_root_dir", "runs/z"], Task, Data)
    with pytest.raises(UserError, match=r"runs/z/out/checkpoints has checkpoints of another run"):
        run("fit", [*deep, "--trainer.default_root_dir", "runs/z"], Task, Data)


def test_the_home_folder_may_be_written_as_a_tilde(recipe: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    flags = [flag.replace("runs/x", '"${trainer.default_root_dir}"') for flag in SAVING]
    run("fit", ["--config", recipe, *flags, "--trainer.default_root_dir", "~/runs/a"], Task, Data)
    assert {path.name for path in (tmp_path / "home/runs/a").iterdir()} >= {"last.ckpt", "recipe.yaml"}
    assert not Path("~").exists()


def test_a_second_run_in_a_folder_is_refused(recipe: str) -> None:
    run("fit", ["--config", recipe], Task, Data)
    with run_lock(Path("runs/x")):
        with pytest.raises(UserError, match=r"another run writes into runs/x: process \d+"):
            run("fit", ["--config", recipe], Task, Data)
        run("fit", ["--config", recipe, "--trainer.default_root_dir", "runs/y"], Task, Data)
        run("test", ["--config", recipe], Task, Data)


def test_a_folder_that_cannot_be_written_is_one_line(recipe: str, monkeypatch) -> None:
    Path("runs").write_text("a file")
    with pytest.raises(UserError, match=r"^runs/x cannot be written: "):
        run("fit", ["--config", recipe], Task, Data)

    def full(self: Task, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/y/events")

    monkeypatch.setattr(Task, "test_step", full)
    with pytest.raises(UserError, match=r"^runs/y/events: No space left on device$"):
        run("test", ["--config", recipe, "--trainer.default_root_dir", "y"], Task, Data)


def test_a_checkpoint_that_a_killed_run_was_replacing_is_found(recipe: str, caplog) -> None:
    cli = run("fit", ["--config", recipe], Task, Data)
    cli.trainer.save_checkpoint("runs/x/last.ckpt.replaced")
    for name in ("other.ckpt.part", "last.ckpt.old"):
        Path("runs/x", name).write_text("half")
    elsewhere = Path("runs/y/other.ckpt.part")
    elsewhere.parent.mkdir()
    elsewhere.write_text("another run writes it")
    resume = ["--ckpt_path", "runs/x/last.ckpt", "--trainer.max_steps", "3"]
    run("fit", ["--config", recipe, *SAVING, *resume], Task, Data)
    assert re.search(r"killed while it saved: renamed \S+/runs/x/last.ckpt.replaced back to last.ckpt", caplog.text)
    assert not Path("runs/x/other.ckpt.part").exists()
    assert Path("runs/x/last.ckpt.old").exists(), "no checkpoint is removed that the library has not written"
    changed = [flag.replace("runs/x", "runs/y") for flag in SAVING]
    run("fit", ["--config", recipe, *changed, "--trainer.max_steps", "3"], Task, Data)
    assert elsewhere.exists(), "the lock does not cover this folder"


def test_settings_that_only_training_uses_are_compared_for_training(recipe: str, capsys) -> None:
    saved = {"optimizer": {"init_args": {"lr": 0.1}}, "label": "first"}
    torch.save({"hyper_parameters": saved}, "last.ckpt")
    ours = {"optimizer": {"init_args": {"lr": 0.2}}, "label": "second"}
    report_differences(Path("last.ckpt"), ours, training=False)
    assert [line.split(" = ")[0].split()[-1] for line in capsys.readouterr().err.splitlines()] == ["model.label"]
    report_differences(Path("last.ckpt"), ours, training=True)
    assert "model.optimizer.init_args.lr = 0.1" in capsys.readouterr().err


def test_settings_that_differ_from_a_checkpoint_are_named() -> None:
    saved = {
        "rate": 0.1,
        "pair": (1, 2),
        "odd": (1,),
        "gone": 1,
        "none": None,
        "class_path": "mmcomponents.data.plan.Budgets",
    }
    ours = {"rate": 0.2, "pair": [1, 2], "odd": [2], "new": 1, "none": 3}
    ours["class_path"] = "mmcomponents.data.packing.pack_plan.Budgets"
    assert differences({"part": saved}, {"part": ours}, "model") == [
        "model.part.rate = 0.1; the recipe's 0.2 is used",
        "model.part.odd = (1,); the recipe's [2] is used",
        "model.part.none = None; the recipe's 3 is used",
    ]


def test_a_verb_without_a_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="fit needs --config RECIPE"):
        build("--model.width", "3", verb="fit")


def test_a_long_recipe_with_arbitrary_text_is_parsed_unchanged(recipe: str, write: Write) -> None:
    names = [f"ä 😀 '{i}': \\ \" # x" for i in range(500)]
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


def test_values_of_the_environment_are_in_no_file_of_a_run(
    recipe: str, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PLACE", "hunter2")
    write(
        "env.yaml",
        """
        extends: r.yaml
        trainer:
          logger: {class_path: CSVLogger, init_args: {save_dir: "${trainer.default_root_dir}/logs"}}
        model: {label: "${oc.env:PLACE}"}
        data: {names: ["of-${model.label}"]}
        """,
    )
    cli = run("fit", ["--config", "env.yaml"], Task, Data)
    assert (cli.model.label, cli.datamodule.names) == ("hunter2", ["of-hunter2"])
    cli.trainer.save_checkpoint("runs/x/last.ckpt")
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"recipe.yaml", "hparams.yaml", "last.ckpt"} <= {path.name for path in files}
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []

    capsys.readouterr()
    again = run("fit", ["--config", "runs/x/recipe.yaml", "--trainer.default_root_dir", "runs/y"], Task, Data)
    assert (again.model.label, again.datamodule.names) == ("hunter2", ["of-hunter2"])
    assert Path(again.trainer.logger.save_dir) == Path("runs/y/logs")
    run("test", ["--config", "runs/x/recipe.yaml", "--ckpt_path", "runs/x/last.ckpt"], Task, Data)
    with pytest.raises(SystemExit):
        build("--config", "runs/x/recipe.yaml", "--print_config", verb="fit")
    printed = capsys.readouterr()
    assert "save_dir: ${trainer.default_root_dir}/logs" in printed.out
    assert "hunter2" not in printed.out + printed.err
    assert "the checkpoint was trained with" not in printed.err


def test_a_dead_worker_is_reported_with_what_helps(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(Trainer, "fit", killed)
    with pytest.raises(UserError) as caught:
        run("fit", ["--config", recipe], Task, Data)
    assert str(caught.value) == (
        "a data loader worker process died (DataLoader worker (pid 7) is killed by signal: Killed.). "
        "If memory ran out, set fewer data.loading.num_workers"
    )
