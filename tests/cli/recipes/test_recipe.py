from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcomponents.cli.recipes import recipe as recipes
from mmcomponents.cli.recipes.flags import apply, sort_flags
from mmcomponents.cli.recipes.recipe import load, shipped
from mmcomponents.cli.user_error import UserError

Write = Callable[[str, str], Path]

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


def test_bases_are_merged_first_and_origins_are_recorded(write: Write) -> None:
    write("deep.yaml", "trainer: {max_steps: 1, devices: 1}\ndata: {names: [a, b]}\n")
    write("sub/base.yaml", "extends: ../deep\ntrainer: {max_steps: 2}\n")
    write("side.yaml", "data: {batch_size: 8}\n")
    write("top.yaml", "extends: [sub/base.yaml, side]\ndata: {names: [c]}\n")
    recipe = load(["top.yaml"])
    assert recipe.resolved() == {
        "trainer": {"max_steps": 2, "devices": 1},
        "data": {"names": ["c"], "batch_size": 8},
    }
    assert recipe.origin("trainer.max_steps") == "sub/base.yaml"
    assert recipe.origin("trainer.devices") == "deep.yaml"
    assert recipe.origin("data.names") == "top.yaml"


def test_several_configs_merge_left_to_right(write: Write) -> None:
    write("a.yaml", "data: {batch_size: 1, width: 1}\n")
    write("b.yaml", "data: {batch_size: 2}\n")
    assert load(["a.yaml", "b.yaml"]).resolved() == {"data": {"batch_size": 2, "width": 1}}
    assert load(["b.yaml", "a.yaml"]).resolved() == {"data": {"batch_size": 1, "width": 1}}


def test_a_head_that_is_set_to_null_is_left_out(write: Write) -> None:
    write("base.yaml", "model: {heads: {lm: {class_path: LMHead}}, merger: {class_path: PixelUnshuffle}}\n")
    write("own.yaml", "extends: base\nmodel: {heads: {lm: null, score: {class_path: LMHead}}, merger: null}\n")
    model = load(["own"]).resolved()["model"]
    assert model == {"heads": {"score": {"class_path": "LMHead"}}, "merger": None}


def test_a_base_may_be_shared_and_a_cycle_is_refused(write: Write) -> None:
    write("root.yaml", "seed_everything: 1\n")
    write("left.yaml", "extends: root\n")
    write("right.yaml", "extends: root\n")
    write("both.yaml", "extends: [left, right]\n")
    assert load(["both"]).resolved() == {"seed_everything": 1}
    write("root.yaml", "extends: both\n")
    with pytest.raises(UserError, match=r"in a cycle: both.yaml -> left.yaml -> root.yaml -> both.yaml"):
        load(["both.yaml"])


def test_a_missing_recipe_names_the_near_one(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/quickstart.yaml", "seed_everything: 3\n")
    write("shipped/family/8b-sft.yaml", "extends: [_base/common]\n")
    write("shipped/_base/common.yaml", "seed_everything: 4\n")
    monkeypatch.setattr(recipes, "SHIPPED", (tmp_path / "shipped",))
    assert load(["quickstart"]).resolved() == {"seed_everything": 3}
    assert load(["family/8b-sft"]).resolved() == {"seed_everything": 4}  # a shipped name in `extends`
    assert shipped() == ["family/8b-sft", "quickstart"]
    with pytest.raises(UserError, match=r"no recipe 'quickstrat'; did you mean 'quickstart'\?"):
        load(["quickstrat"])
    write("mine.yaml", "extends: _base/comon\n")
    with pytest.raises(UserError, match=r"extends of mine.yaml: there is no recipe '_base/comon'"):
        load(["mine.yaml"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "bad.yaml cannot be read"),
        ("a: 1\na: 2\n", "duplicate key"),
        ("- 1\n", "a recipe is a mapping"),
        ("1: 2\n", "whose keys are names"),
        ("extends: {a: 1}\n", "extends takes a recipe or a list"),
        ("a: " + "9" * 10_000, "bad.yaml cannot be read: Exceeds the limit"),
        ("a: " + "[" * 3000 + "]" * 3000, "bad.yaml is nested too deeply"),
        ("a: " + "{b: " * 3000 + "1" + "}" * 3000, "bad.yaml is nested too deeply"),
        ("# " + "x" * 1_000_000, "bad.yaml has 1,000,002 bytes; a recipe has at most 1,000,000"),
        ("a: [" + "1, " * 100_000 + "]", "bad.yaml has more than 20,000 values"),
        (LAUGHS, "bad.yaml cannot be read: YAML node expansion"),
        (LAUGHS.replace(": &", ": &").replace("[*", "{<<: [*").replace("]", "]}"), "bad.yaml cannot be read"),
        ("a: &a [*a]", "bad.yaml cannot be read"),
        ("a: !!python/object/apply:os.getcwd []", "bad.yaml cannot be read: could not determine a constructor"),
    ],
)
def test_an_invalid_file_is_refused_in_one_line(write: Write, text: str, words: str) -> None:
    write("bad.yaml", text)
    with pytest.raises(UserError, match=words) as caught:
        load(["bad.yaml"])
    assert "\n" not in str(caught.value)


def test_flags_are_applied_before_interpolation(write: Write) -> None:
    write("r.yaml", "data: {batch_size: 2, width: '${data.batch_size}'}\nmodel: {label: 'b${data.batch_size}'}\n")
    recipe = load(["r.yaml"])
    flagged = apply(recipe, [("data.batch_size", "16")])
    assert recipe.resolved()["data"]["width"] == 2
    assert flagged.resolved() == {"data": {"batch_size": "16", "width": "16"}, "model": {"label": "b16"}}


def test_broken_interpolation_and_missing_value_name_the_key(write: Write) -> None:
    write("r.yaml", "data: {batch_size: 2, width: '${data.batch_sise}'}\n")
    with pytest.raises(UserError, match=r"data.width \(r.yaml\): .*'data.batch_sise'.*did you mean 'data.batch_size'"):
        load(["r.yaml"]).resolved()
    write("s.yaml", "data: {width: '???'}\n")
    with pytest.raises(UserError, match=r"data.width"):
        load(["s.yaml"]).resolved()


def test_flags_reach_into_parts_and_lists() -> None:
    recipe = recipes.Recipe({"model": {"projector": "A"}, "trainer": {"callbacks": [{"class_path": "C"}]}}, {})
    settings = [
        ("model.projector.hidden", "5"),
        ("model.heads.lm", "Words"),
        ("model.heads.lm.chunk", "2"),
        ("trainer.callbacks+", "D"),
        ("trainer.callbacks.monitor", "loss"),
        ("data.names", "[x, y]"),
        ("model.fuser", "null"),
        ("trainer.logger", "false"),
        ("trainer.devices", "2"),
    ]
    assert apply(recipe, settings).resolved() == {
        "model": {
            "projector": {"class_path": "A", "init_args": {"hidden": "5"}},
            "heads": {"lm": {"class_path": "Words", "init_args": {"chunk": "2"}}},
            "fuser": None,
        },
        "trainer": {
            "callbacks": [{"class_path": "C"}, {"class_path": "D", "init_args": {"monitor": "loss"}}],
            "logger": False,
            "devices": "2",
        },
        "data": {"names": ["x", "y"]},
    }
    assert recipe.tree["trainer"]["callbacks"] == [{"class_path": "C"}]
    with pytest.raises(UserError, match=r"--data\.width is '3 x', which is not a mapping"):
        apply(recipe, [("data.width", "3 x"), ("data.width.more", "1")])


def test_the_command_line_is_sorted() -> None:
    words = ["--config", "a", "-c", "b", "--trainer.max_steps", "-1", "--x=a=b"]
    flags = sort_flags([*words, "--print_config", "--model.projector.help", "Wide", "-h"])
    assert flags.configs == ["a", "b"]
    assert flags.settings == [("trainer.max_steps", "-1"), ("x", "a=b")]
    assert flags.requests == ["--print_config", "--model.projector.help=Wide", "-h"]
    with pytest.raises(UserError, match="--seed has no value"):
        sort_flags(["--seed"])
    with pytest.raises(UserError, match=r"'recipe\.yaml' is not a flag"):
        sort_flags(["recipe.yaml"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "".join(f"a{i}: ${{a{i + 1}}}${{a{i + 1}}}\n" for i in range(60)) + "a60: x",
            "expand to more than 20,000 values",
        ),
        (
            "".join(f'a{i}: ["${{a{i + 1}}}", "${{a{i + 1}}}"]\n' for i in range(60)) + "a60: x",
            "expand to more than 20,000 values",
        ),
        ('a: {x: "${b}"}\nb: {x: "${a}"}', "the recipe is nested too deeply"),
    ],
)
def test_interpolations_without_end_are_refused(write: Write, text: str, words: str) -> None:
    write("bad.yaml", text)
    with pytest.raises(UserError, match=words):
        load(["bad.yaml"]).resolved()


def test_only_files_are_read_and_not_too_many(write: Write, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", str(tmp_path)):
        with pytest.raises(UserError, match=f"there is no recipe {name!r}"):
            load([name])
    with pytest.raises(UserError, match="File name too long"):
        load(["x" * 3000])
    for i in range(7):
        write(f"e{i}.yaml", f"extends: [e{i + 1}, e{i + 1}]\n")
    write("e7.yaml", "seed_everything: 1\n")
    with pytest.raises(UserError, match=r"^e0.yaml: the recipe extends more than 100 files$"):
        load(["e0"])


def test_flags_nested_too_deeply_are_refused() -> None:
    with pytest.raises(UserError, match=r"--data.names is nested too deeply"):
        apply(recipes.Recipe(), [("data.names", "[" * 300 + "]" * 300)])
    with pytest.raises(UserError, match=r"^--data\.a\.[a.]{30,50}… is nested too deeply$"):
        apply(recipes.Recipe(), [("data" + ".a" * 3000, "1")])
    with pytest.raises(UserError, match=r"--data.names: .*YAML node expansion"):
        apply(recipes.Recipe(), [("data.names", "{" + ", ".join(LAUGHS.splitlines()) + "}")])
