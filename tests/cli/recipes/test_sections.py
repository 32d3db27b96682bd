"""The data section of a recipe: its class, its plain form, and settings that have moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_standins import CALLED, Alone, Data, NoArguments, OtherData

from mmcomponents.cli.recipes.flags import apply, sort_flags
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
REFERENCE = "model: {width: '${data.width}'}\n"
OTHER = "data: {class_path: recipe_standins.OtherData, init_args: {width: 4}}\n"


@pytest.fixture(autouse=True)
def _no_function_is_called() -> Iterator[None]:
    CALLED.clear()
    yield
    assert CALLED == []


@pytest.fixture
def build(write: Write) -> Build:
    """Builds task, data and trainer from a recipe over `BASE`, and flags."""
    write("base.yaml", BASE)

    def make(text: str, *flags: str, verb: str = "generate") -> RecipeCLI:
        write("r.yaml", "extends: base\n" + text)
        return RecipeCLI(verb, sort_flags(["--config", "r.yaml", *flags]), Alone, Data)

    return make


def values(cli: RecipeCLI) -> tuple[type, dict[str, Any]]:
    return type(cli.datamodule), cli.config.data.as_dict()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "generate", "export"])
def test_a_recipe_names_its_data_class(build: Build, verb: str) -> None:
    assert values(build(OTHER, verb=verb)) == (OtherData, {"width": 4, "length": 2, "allow_pipe": False})
    plain = "data: {width: 4}\n"
    assert values(build(plain, verb=verb)) == (Data, {"width": 4, "batch_size": 1, "names": None})
    assert build(REFERENCE + OTHER, verb=verb).model.hparams["width"] == 4


def test_a_recipe_names_its_data_class_in_the_short_form(build: Build, write: Write) -> None:
    assert values(build("data: recipe_standins.OtherData\n"))[0] is OtherData
    write("plain.yaml", "data: {class_path: recipe_standins.OtherData, init_args: {length: 7}}\n")
    write("short.yaml", "extends: plain\ndata: recipe_standins.OtherData\n")
    assert values(build("", "--config", "short.yaml"))[1]["length"] == 7  # the same class keeps its arguments
    assert values(build("data: recipe_standins.OtherData\n", "--data.length", "5"))[1]["length"] == 5
    write("back.yaml", "extends: plain\ndata: Data\n")
    assert values(build("", "--config", "back.yaml"))[0] is Data


def test_a_data_class_may_take_no_arguments(build: Build, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    for text, flags in [
        ("", ["--data.class_path", "recipe_standins.NoArguments"]),
        ("", ["--data", "recipe_standins.NoArguments"]),
        ("data: {class_path: recipe_standins.NoArguments}\n", []),
        ("data: {class_path: recipe_standins.NoArguments, init_args: {}}\n", []),
        ("data: recipe_standins.NoArguments\n", []),
    ]:
        cli = build(text, *flags, verb="fit")
        assert type(cli.datamodule) is NoArguments
        with pytest.raises(UserError, match=r"^unknown key data.width \(the command line\)"):
            build(text, *flags, "--data.width", "3")
    with pytest.raises(SystemExit):
        build("data: recipe_standins.NoArguments\n", "--print_config")
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["data"] == {"class_path": "recipe_standins.NoArguments", "init_args": {}}
    write("printed.yaml", text)
    assert type(build("", "--config", "printed.yaml").datamodule) is NoArguments


def test_flags_set_arguments_and_replace_the_class(build: Build) -> None:
    other = "recipe_standins.OtherData"
    for flags in (["--data.length", "7"], ["--data.init_args.length", "7"], ["--data", "{init_args: {length: 7}}"]):
        assert values(build(OTHER, *flags)) == (OtherData, {"width": 4, "length": 7, "allow_pipe": False})
    for flags in (["--data", other], ["--data.class_path", other], ["--data", f"{{class_path: {other}}}"]):
        found = values(build("data: {width: 5, batch_size: 2}\n", *flags, "--data.length=9"))
        assert found == (OtherData, {"width": 3, "length": 9, "allow_pipe": False})
    # The same class keeps its arguments.
    assert values(build(OTHER, "--data", other))[1]["width"] == 4
    for name in ("recipe_standins.Data", "Data"):
        assert values(build("data: {width: 5}\n", "--data", name)) == (
            Data,
            {"width": 5, "batch_size": 1, "names": None},
        )
        assert values(build(OTHER, "--data", name))[1]["width"] == 2


def test_a_class_replaces_the_data_of_its_bases(build: Build, write: Write) -> None:
    write("plain.yaml", "data: {width: 5, batch_size: 3}\n")
    write("other.yaml", f"extends: plain\n{OTHER}")
    assert values(build("", "--config", "other.yaml"))[1] == {"width": 4, "length": 2, "allow_pipe": False}
    write("delta.yaml", "extends: other\ndata: {length: 8}\n")
    assert values(build("", "--config", "delta.yaml"))[1] == {"width": 4, "length": 8, "allow_pipe": False}
    write("delta.yaml", "extends: other\ndata: {init_args: {length: 8}}\n")
    assert values(build("", "--config", "delta.yaml"))[1] == {"width": 4, "length": 8, "allow_pipe": False}
    write("back.yaml", "extends: other\ndata: {class_path: recipe_standins.Data, init_args: {batch_size: 4}}\n")
    assert values(build("", "--config", "back.yaml"))[1] == {"width": 2, "batch_size": 4, "names": None}
    write("same.yaml", "extends: plain\ndata: {class_path: recipe_standins.Data, init_args: {batch_size: 4}}\n")
    assert values(build("", "--config", "same.yaml"))[1] == {"width": 5, "batch_size": 4, "names": None}


def test_references_into_the_data_section_hold_in_both_forms(build: Build) -> None:
    text = """
data:
  class_path: recipe_standins.OtherData
  init_args: {length: 6, width: '${.length}'}
seed_everything: ${data.init_args.length}
"""
    cli = build(REFERENCE + text)
    assert (cli.datamodule.width, cli.model.hparams["width"], cli.config.seed_everything) == (6, 6, 6)
    assert build("data: {batch_size: '${.width}', width: 3}\n").datamodule.batch_size == 3


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{class_path: recipe_standins.Wide}", "data.class_path (r.yaml): recipe_standins.Wide is not a subclass of "),
        (
            "{class_path: recipe_standins.PlainData}",
            "recipe_standins.PlainData is not a subclass of mmcomponents.data.Da",
        ),
        ("{class_path: mmcomponents.data.DataModule}", "mmcomponents.data.DataModule is not a subclass of "),
        ("{class_path: recipe_standins.make_data}", "recipe_standins.make_data is not a subclass of "),
        ("{class_path: nowhere.Data}", "data.class_path (r.yaml): cannot import nowhere.Data: ModuleNotFoundError"),
        ("{class_path: recipe_standins.OtherDate}", "recipe_standins has no OtherDate; did you mean 'OtherData'?"),
        (
            "{class_path: OtherData}",
            "data.class_path (r.yaml): 'OtherData' is no dotted path, such as my_package.",
        ),
        ("{class_path: 3}", "data.class_path (r.yaml): the dotted path of a class is expected, got 3"),
        ("{class_path: '${oc.env:X}'}", "data.class_path (r.yaml): the dotted path of a class is expected"),
        ("{class_path: recipe_standins.OtherData, length: 3}", "are in init_args: data.init_args.length"),
        ("{class_path: recipe_standins.OtherData, init_args: 3}", "data.init_args (r.yaml): a mapping is expected"),
        (
            "{class_path: recipe_standins.OtherData, init_args: {lenght: 3}}",
            "data.lenght (r.yaml); did you mean 'length'",
        ),
        ("{class_path: recipe_standins.OtherData, init_args: {batch_size: 3}}", "unknown key data.batch_size (r.yaml)"),
        ("{class_path: recipe_standins.OtherData, init_args: {length: x}}", "data.length (r.yaml): Expected a int"),
        ("recipe_standins.Wide", "data.class_path (r.yaml): recipe_standins.Wide is not a subclass of "),
        ("data.yaml", "data (r.yaml): a mapping is expected; a class is named by `class_path`"),
        ("data/my.Data", "data (r.yaml): a mapping is expected; a class is named by `class_path`"),
        ("3", "data (r.yaml): a mapping is expected"),
        ("[1]", "data (r.yaml): a mapping is expected"),
    ],
)
def test_a_section_that_is_not_valid_is_one_line(build: Build, section: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(f"data: {section}\n")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flags_that_are_not_valid_are_one_line(build: Build) -> None:
    for flags, message in [
        (["--data.lenght", "3"], "unknown key data.lenght (the command line); did you mean 'length'?"),
        (
            ["--data", "recipe_standins.make_data"],
            "data.class_path (the command line): recipe_standins.make_data is",
        ),
        (["--data", "data.yaml"], "data.class_path (the command line): data has no yaml"),
        (["--data.init_args", "3"], "data.init_args (the command line): a mapping is expected, got '3'"),
    ]:
        with pytest.raises(UserError) as caught:
            build(OTHER, *flags)
        assert message in str(caught.value)


def test_the_written_recipe_names_the_class_and_loads_again(
    build: Build, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build(REFERENCE + OTHER, "--data.allow_pipe", "true", "--print_config")
    text = capsys.readouterr().out
    tree = yaml.safe_load(text)
    assert tree["data"] == {
        "class_path": "recipe_standins.OtherData",
        "init_args": {"width": 4, "length": 2, "allow_pipe": False},
    }
    assert tree["model"]["width"] == "${data.width}"
    write("printed.yaml", text)
    again = build("", "--config", "printed.yaml", "--data.width", "5")
    assert (type(again.datamodule), again.model.hparams["width"]) == (OtherData, 5)
    with pytest.raises(SystemExit):
        build("data: {width: 4}\n", "--data.class_path", "recipe_standins.Data", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["data"] == {"width": 4, "batch_size": 1, "names": None}


def test_a_verb_that_needs_the_model_only_does_not_import_the_class(write: Write) -> None:
    write("r.yaml", REFERENCE + "data: {class_path: nowhere.Data, init_args: {width: 5}}\n")
    assert RecipeCLI("plan", sort_flags(["--config", "r.yaml"]), Alone, None).model.hparams["width"] == 5


def test_a_recipe_cannot_permit_its_own_commands_in_another_class(build: Build, write: Write) -> None:
    permits = "data: {class_path: recipe_standins.OtherData, init_args: {allow_pipe: true}}\n"
    name = "recipe_standins.OtherData"
    for flags in ([], ["--data", name], ["--data", "{init_args: {width: 5}}"], ["--data.class_path", name]):
        with pytest.raises(UserError, match=r"^data.allow_pipe .*a recipe cannot set this; add --data.allow_pipe true"):
            build(permits, *flags)
    for flag in (
        "data.allow_pipe=true",
        "data.init_args.allow_pipe=true",
        "data={init_args: {allow_pipe: true}}",
    ):
        assert build(permits, f"--{flag}").datamodule.allow_pipe is True


INNER = "inner.loading.allow_pipe"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ("loading: {allow_pipe: true}", "loading.allow_pipe"),
        ("loading: '{allow_pipe: true}'", "loading.allow_pipe"),
        ("loading: load.yaml", "loading.allow_pipe"),
        ("loading: '${trainer.default_root_dir}'", "loading.allow_pipe"),
        ("loading: {allow_pipe: '${trainer.deterministic}'}", "loading.allow_pipe"),
        ("parts: parts.yaml", "parts.a.allow_pipe"),
        ("inner: {class_path: recipe_standins.LoadedData, init_args: {loading: load.yaml}}", INNER),
        ("inner: '{class_path: recipe_standins.OtherData, init_args: {allow_pipe: true}}'", "inner.allow_pipe"),
        ("inner: inner.yaml", INNER),
    ],
)
def test_a_recipe_cannot_permit_commands_in_texts_and_files(write: Write, arguments: str, key: str) -> None:
    write("load.yaml", "allow_pipe: true\n")
    write("parts.yaml", "a: [{num_workers: 2}, {allow_pipe: true}]\n")
    write("inner.yaml", "class_path: recipe_standins.LoadedData\ninit_args: {loading: {allow_pipe: true}}\n")
    settings = "trainer: {default_root_dir: '{allow_pipe: true}', deterministic: true}\n"
    write("r.yaml", f"{settings}data: {{class_path: recipe_standins.LoadedData, init_args: {{{arguments}}}}}\n")
    with pytest.raises(UserError) as refused:
        RecipeCLI("export", sort_flags(["--config", "r.yaml"]), Alone, Data)
    assert str(refused.value) == (
        f"data.{key} (r.yaml): a recipe cannot set this; add --data.{key} true to the command"
    )


@pytest.mark.parametrize("flag", ["loading.allow_pipe=true", "loading={allow_pipe: true}"])
def test_the_command_line_permits_commands_in_settings(build: Build, flag: str) -> None:
    text = "data: {class_path: recipe_standins.LoadedData, init_args: {loading: {num_workers: 1}}}\n"
    loading = build(text, f"--data.{flag}").datamodule.loading
    assert loading.allow_pipe is True


MOVED = {"pack_tokens": "packing.tokens", "pack_tiles": "packing.tiles", "labels": "text.labels"}


@pytest.fixture
def merged(write: Write) -> Callable[..., dict[str, Any]]:
    """Returns the merged and resolved data section of two files and flags."""

    def make(base: str, delta: str = "", *settings: tuple[str, str]) -> dict[str, Any]:
        write("base.yaml", base)
        write("delta.yaml", f"extends: base\n{delta}")
        return apply(load(["delta"], Sections({"data": Data}, MOVED)), list(settings)).resolved()

    return make


def test_former_names_of_settings_stay_valid(merged: Callable[..., dict[str, Any]]) -> None:
    both = merged("data: {pack_tokens: 1, pack_tiles: 2, width: 3}\n", "data: {packing: {tokens: 4}}\n")
    assert both["data"] == {"packing": {"tokens": 4, "tiles": 2}, "width": 3}
    later = merged("data: {packing: {tokens: 4, tiles: 2}}\n", "data: {pack_tokens: 1}\n")
    assert later["data"] == {"packing": {"tokens": 1, "tiles": 2}}
    flags = [("data.pack_tokens", "5"), ("data.labels+", "b"), ("data", "{pack_tiles: 7}")]
    assert merged("data: {labels: [a]}\n", "", *flags)["data"] == {
        "text": {"labels": ["a", "b"]},
        "packing": {"tokens": "5", "tiles": 7},
    }
    deep = merged("data: {labels: {a: {b: 1}}}\n", "", ("data.labels.a.b", "2"), ("data.init_args.labels.a.c", "3"))
    assert deep["data"] == {"text": {"labels": {"a": {"b": "2", "c": "3"}}}}
    named = "data: {class_path: recipe_standins.Data, init_args: {pack_tokens: 1}}\n"
    assert merged(named)["data"] == {"packing": {"tokens": 1}}


def test_former_names_in_references_stay_valid(merged: Callable[..., dict[str, Any]]) -> None:
    tree = merged(
        "model: {a: '${data.pack_tokens}', b: 'x${data.labels[0]}y', c: '${data[pack_tiles]}'}\n"
        "other: ${oc.env:data.labels,z}\n"
        "data: {pack_tokens: 1, pack_tiles: '${.pack_tokens}', labels: ['${..width}'], width: '${..e}'}\ne: 9\n",
        "",
        ("data.pack_tokens", "7"),
    )
    assert tree["model"] == {"a": "7", "b": "x9y", "c": "7"}
    assert tree["other"] == "z"
    assert tree["data"] == {"packing": {"tokens": "7", "tiles": "7"}, "text": {"labels": [9]}, "width": 9}


def test_both_names_of_a_setting_are_refused(merged: Callable[..., dict[str, Any]]) -> None:
    message = r"^data.pack_tokens and data.packing.tokens \(base.yaml\) are the same setting; give one of them$"
    with pytest.raises(UserError, match=message):
        merged("data: {pack_tokens: 1, packing: {tokens: 1}}\n")
    with pytest.raises(UserError, match=r"^data.pack_tokens and data.packing \(delta.yaml\): the first is part of"):
        merged("", "data: {pack_tokens: 1, packing: null}\n")
    both = [("data.init_args.pack_tokens", "1"), ("data.packing.tokens", "1")]
    for flags in (both, both[::-1]):
        with pytest.raises(UserError, match=r"^--data\.pack\S+ and --data\.pack\S+ are the same setting; give one of"):
            merged("", "", *flags)
    assert merged("", "", both[1], ("data.init_args.packing.tokens", "2"))["data"] == {"packing": {"tokens": "2"}}


def test_a_moved_setting_has_the_origin_of_its_former_name(write: Write) -> None:
    write("r.yaml", "data: {pack_tokens: 1}\n")
    recipe = load(["r"], Sections({"data": Data}, MOVED))
    assert recipe.origin("data.packing.tokens") == "r.yaml, as data.pack_tokens"
    assert apply(recipe, [("data.pack_tokens", "2")]).origin("data.packing.tokens") == "the command line"


def test_former_names_are_those_of_the_class_and_its_subclasses(merged: Callable[..., dict[str, Any]]) -> None:
    section = "data: {class_path: recipe_standins.NAME, init_args: {labels: [x], width: '${.labels}'}}\n"
    derived = merged(section.replace("NAME", "PlainData"))["data"]
    assert derived == {"text": {"labels": ["x"]}, "width": ["x"]}
    assert merged(section.replace("NAME", "Wide"))["data"] == {"labels": ["x"], "width": ["x"]}
    assert merged("data: {labels: [y]}\n", section.replace("NAME", "Wide"))["data"]["labels"] == ["x"]


@pytest.mark.parametrize("value", ["null", "5", "[1, 2]", "'5'", "no_such_file.yaml", "'{'"])
def test_a_group_of_settings_is_a_mapping(build: Build, value: str) -> None:
    text = f"data: {{class_path: recipe_standins.LoadedData, init_args: {{loading: {value}}}}}\n"
    with pytest.raises(UserError, match=r"^data\.loading .*holds settings, a mapping, not "):
        build(text)
