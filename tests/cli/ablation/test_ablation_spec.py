"""Variants, seeds and tests of an ablation, from files and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmcomponents.cli.ablation.ablation_spec import make_ablation, read_file
from mmcomponents.cli.user_error import UserError


def made(tree: dict[str, Any] | None = None, *over: str, **more: Any) -> Any:
    given = {"configs": ["quickstart"], "settings": [], "seeds": None} | more
    return make_ablation(tree or {}, given["configs"], given["settings"], over, given["seeds"])


def test_axes_are_combined_and_the_first_values_are_the_base() -> None:
    found = made({}, "model.projector=MLPProjector,LinearProjector", "model.position=V2PE,RoPE", seeds="0,2")
    assert [variant.name for variant in found.variants] == [
        "projector=MLPProjector,position=V2PE",
        "projector=MLPProjector,position=RoPE",
        "projector=LinearProjector,position=V2PE",
        "projector=LinearProjector,position=RoPE",
    ]
    assert found.variants[1].flags() == [
        "--config", "quickstart", "--model.projector", "MLPProjector", "--model.position", "RoPE",
    ]  # fmt: skip
    assert found.axes == ["model.projector", "model.position"]
    fixed = made({}, "model.projector=MLPProjector,LinearProjector", "model.position=RoPE")
    assert fixed.axes == ["model.projector"]  # only what differs
    assert [variant.name for variant in fixed.variants] == ["projector=MLPProjector", "projector=LinearProjector"]
    assert all(("model.position", "RoPE") in variant.settings for variant in fixed.variants)
    assert (found.seeds, dict(found.tests)) == ((0, 2), {"": {}})


def test_commas_within_brackets_do_not_separate_values() -> None:
    found = made({}, "model.projector=MLPProjector,{class_path: TwoMap, init_args: {a: 1, b: [2, 3]}}")
    assert [variant.labels["model.projector"] for variant in found.variants] == [
        "MLPProjector",
        "TwoMap(a=1, b=[2, 3])",
    ]
    assert found.variants[1].settings == (
        ("model.projector", '{"class_path": "TwoMap", "init_args": {"a": 1, "b": [2, 3]}}'),
    )
    found = made({}, "model.optimizer.lr=1e-3,3e-4,true,null")
    values = [dict(variant.settings)["model.optimizer.lr"] for variant in found.variants]
    assert values == ["1e-3", "3e-4", "true", "null"]


@pytest.mark.parametrize(
    ("common", "own", "together"),
    [  # a class drops the arguments before it, so that those of all variants come after it
        (["p.size=3"], {"p": "A"}, ["p=A", "p.size=3"]),
        (["p=B", "p.size=3"], {"p": "A"}, ["p=A", "p.size=3"]),
        (["p.size=3"], {"p": {"class_path": "A", "init_args": {"size": 4}}}, ["p={…}"]),
        ([], {"p.size": "3", "p": "A"}, ["p=A", "p.size=3"]),
        (["p=B"], {"p": {"class_path": "A"}}, ["p={…}"]),
        (["p=B", "o.x=1"], {"p.size": "3"}, ["p=B", "p.size=3", "o.x=1"]),
        (["l=null", "l+=a", "l+=b"], {"l+": "c"}, ["l=null", "l+=c", "l+=a", "l+=b"]),
        (["l.x=1", "l+=a"], {"l": "[]"}, ["l=[]", "l.x=1", "l+=a"]),
    ],
)
def test_settings_of_all_variants_are_kept(common: list[str], own: dict[str, Any], together: list[str]) -> None:
    shared = [(f"model.{key}", value) for key, _, value in (text.partition("=") for text in common)]
    tree = {"runs": {"a": {f"model.{key}": value for key, value in own.items()}}}
    (variant,) = made(tree, settings=shared).variants
    shown = [f"{key.removeprefix('model.')}={'{…}' if '{' in value else value}" for key, value in variant.settings]
    assert shown == together


def test_a_file_has_named_values_tests_and_metrics(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "config: quickstart\n"
        "settings: {trainer.max_steps: 10}\n"
        "over:\n"
        "  loss:\n"
        "    token: {model.objective.weighting: token}\n"
        "    square: {model.objective.weighting: square, model.optimizer.lr: 0.001}\n"
        "seeds: [1, 2, 3]\n"
        "tests: {short: {}, long: {data.images.max_tiles: 8}}\n"
        "metrics: exact_match\n"
    )
    found = made(read_file(str(path)), settings=[("trainer.max_steps", "20")], configs=[])
    assert [variant.name for variant in found.variants] == ["loss=token", "loss=square"]
    assert dict(found.variants[1].settings) == {
        "trainer.max_steps": "20",  # flags take precedence
        "model.objective.weighting": "square",
        "model.optimizer.lr": "0.001",
    }
    assert found.tests == {"short": {}, "long": {"data.images.max_tiles": "8"}}
    assert (found.seeds, found.metrics) == ((1, 2, 3), ("exact_match",))


def test_a_list_of_runs_may_have_recipes_of_its_own() -> None:
    found = made({"runs": {"base": None, "other": {"config": "langbridge/tiny", "trainer.max_steps": 3}}})
    assert [variant.configs for variant in found.variants] == [("quickstart",), ("langbridge/tiny",)]
    assert found.variants[1].labels == {"run": "other"}
    assert found.variants[1].settings == (("trainer.max_steps", "3"),)


@pytest.mark.parametrize(
    ("tree", "over", "more", "message"),
    [
        ({}, (), {}, "nothing differs"),
        ({}, ("model.projector",), {}, "an axis is written KEY=VALUE,VALUE"),
        ({}, ("model.projector=A,A",), {}, "the axis model.projector has a value twice"),
        ({}, ("model.projector=[A",), {}, "--over 'model.projector=\\[A'"),
        ({"over": {"model.projector": "A"}}, (), {}, "is a list of values, or a mapping of names to settings"),
        ({"over": {"x": ["A"]}, "runs": {"a": {}}}, (), {}, "not both"),
        ({"runs": ["a"]}, (), {}, "runs: is a mapping of names to settings"),
        ({"runs": {"a": {"projector": "B"}}}, (), {}, "'projector' is no key of a recipe"),
        ({"runs": {"a": 3}}, (), {}, "runs.a: is a mapping of keys to values"),
        ({"runs": {"a/b": {}, "a_b": {}}}, (), {}, "two variants are called 'a_b'"),
        ({}, ("a.b=1,2", "a.b=3,4"), {}, "--over a.b is given twice"),
        ({"over": {"x": {"p": {"a.b": 1}}, "y": {"q": {"a.b": 2}}}}, (), {}, "the axes x and y both set a.b"),
        ({"over": {"test": {"p": {"a.b": 1}}}}, (), {}, "an axis cannot be called 'test'"),
        ({}, ("seed_everything=1,2",), {}, "seed_everything cannot be set: each run has its own"),
        ({"config": 5, "runs": {"a": {}}}, (), {"configs": []}, "config: is a recipe or a list of recipes, not 5"),
        ({"tests": ["a"], "runs": {"a": {}}}, (), {}, "tests: is a mapping of names to settings"),
        ({"tests": {"a b": {}, "a/b": {}}, "runs": {"a": {}}}, (), {}, "two tests are called 'a_b'"),
        ({"metrics": 5, "runs": {"a": {}}}, (), {}, "metrics: is the name of a figure"),
        ({"seeds": [0, 0], "runs": {"a": {}}}, (), {}, "a seed is given twice"),
        ({"runs": {"a": {}}}, (), {"seeds": "0,x"}, "seeds is a list of numbers from 0 on"),
        ({"seeds": 3, "runs": {"a": {}}}, (), {}, "seeds is a list of numbers from 0 on, such as 0,1,2, not 3"),
        ({"runs": {"a": {}}}, (), {"configs": []}, "an ablation needs a base"),
        ({}, tuple(f"a.b{n}=" + ",".join(map(str, range(10))) for n in range(5)), {}, "100000 combinations"),
    ],
)
def test_what_is_wrong_is_told(tree: Any, over: tuple[str, ...], more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(tree, *over, **more)


def test_names_are_those_of_folders_and_dates_are_texts() -> None:
    found = made({}, "a.b=2024-01-01,x").variants
    assert found[0].settings == (("a.b", '"2024-01-01"'),)
    long = [made({"runs": {"値" * 100 + end: {}}}).variants[0].name for end in "ab"]
    assert len({*long}) == 2
    assert all(len(name.encode()) <= 160 for name in long)


def test_files_that_are_missing_or_have_other_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no ablation 'projectorss'"):
        read_file("projectorss")
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="no key 'seed'; did you mean 'seeds'"):
        read_file(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="an ablation is a mapping with config"):
        read_file(str(tmp_path / "b.yaml"))
    (tmp_path / "d.yaml").write_text("runs:\n  a: {}\n  a: {model.x: 1}\n")
    with pytest.raises(UserError, match="found duplicate key a"):
        read_file(str(tmp_path / "d.yaml"))
    (tmp_path / "c.yaml").write_text("a: [\n")
    with pytest.raises(UserError, match=r"c\.yaml: while parsing"):
        read_file(str(tmp_path / "c.yaml"))
