"""The written recipe keeps its interpolations, resolves to the same values, and holds none of the environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from mmcomponents.cli.recipes.interpolations import Texts
from mmcomponents.cli.recipes.recipe import Recipe

TREE: dict[str, Any] = {
    "trainer": {
        "default_root_dir": "runs/${oc.env:NAME}",
        "callbacks": [{"class_path": "C", "init_args": {"dirpath": "${trainer.default_root_dir}/checkpoints"}}],
    },
    "model": {
        "optimizer": {"lr": "${model.rate}"},
        "rate": "1e-3",
        "number": "${oc.decode:${oc.env:COUNT}}",
        "label": "r${model.rate}-${.optimizer.lr}",
        "rated": "r${model.rate}",
        "same": "${data}",
        "plain": r"\${not.a.key}",
        "checkpoint": "of ${ckpt_path}",
        "of_both": "${ckpt_path}-${oc.env:NAME}",
    },
    "data": {"width": 3, "tokens": ["a-${data.width}", "b"], "allow_pipe": False},
    "ckpt_path": "x.ckpt",
}


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    monkeypatch.setenv("NAME", "secret")
    monkeypatch.setenv("COUNT", "1234567")
    return Texts.of(Recipe(TREE), {"model.optimizer.class_path": "AdamW"})


def parsed() -> dict[str, Any]:
    """Returns the tree as the parser dumps it: defaults added, numbers converted, no arguments of the verb."""
    tree = Recipe(TREE).resolved()
    tree["model"] |= {"rate": 0.001, "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.001, "eps": 1e-8}}}
    tree["trainer"]["devices"] = 1
    del tree["ckpt_path"]
    return tree


def test_interpolations_are_kept_where_they_resolve_to_the_same(texts: Texts) -> None:
    dumped = parsed()
    text = texts.recipe(f"# comment\n{yaml.safe_dump(dumped)}")
    assert text.startswith("# comment\n")
    written = OmegaConf.to_container(OmegaConf.create(text))
    assert written["trainer"] == {**TREE["trainer"], "devices": 1}
    assert written["data"] == TREE["data"]
    model = written["model"]
    assert model["optimizer"]["init_args"] == {"lr": "${model.rate}", "eps": 1e-8}
    assert (model["number"], model["same"], model["plain"]) == (
        TREE["model"]["number"], TREE["model"]["same"], TREE["model"]["plain"]
    )  # fmt: skip
    # the parser's number has another text, and arguments of the verb are not written
    assert (model["rated"], model["label"], model["checkpoint"]) == ("r1e-3", "r1e-3-1e-3", "of x.ckpt")
    assert model["of_both"] == "x.ckpt-${oc.env:NAME}"
    assert Recipe(OmegaConf.to_container(OmegaConf.create(text))).resolved() == dumped


@pytest.mark.parametrize("is_short", [False, True])  # short values are not looked for elsewhere
def test_no_value_of_the_environment_is_written(texts: Texts, is_short: bool) -> None:
    texts = replace(texts, secrets={}) if is_short else texts
    hidden = texts.hide_environment(parsed())
    for text in (texts.recipe(yaml.safe_dump(parsed())), str(hidden)):
        assert "secret" not in text
        assert "1234567" not in text
    assert hidden["trainer"]["callbacks"][0]["init_args"]["dirpath"] == "runs/${oc.env:NAME}/checkpoints"
    assert hidden["model"]["number"] == "${oc.decode:${oc.env:COUNT}}"
    assert hidden["data"] == parsed()["data"]


def test_a_value_that_the_parser_moved_is_not_written(texts: Texts) -> None:
    moved = next(iter(texts.secrets))
    tree = parsed() | {"more": [{"comment": moved}]}
    assert moved not in texts.recipe(yaml.safe_dump(tree))
    assert moved not in str(texts.hide_environment(tree))


def test_texts_that_look_like_numbers_stay_texts(texts: Texts) -> None:
    text = texts.recipe(yaml.safe_dump({"data": {"names": ["1e-3", "on", "7", "ü"]}}))
    assert Recipe(OmegaConf.to_container(OmegaConf.create(text))).resolved() == {
        "data": {"names": ["1e-3", "on", "7", "ü"]}
    }


def test_permission_for_pipes_is_not_written(texts: Texts) -> None:
    assert yaml.safe_load(texts.recipe("data: {allow_pipe: true}")) == {"data": {"allow_pipe": False}}


def test_a_reference_into_a_hidden_value_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABLE", "{x: secret}")
    tree = {"model": {"table": "${oc.decode:${oc.env:TABLE}}", "label": "${model.table.x}", "two": "${oc.env:TABLE}"}}
    made = Texts.of(Recipe(tree), {})
    assert made.public == tree


def test_a_data_class_with_an_argument_of_a_former_name_hides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "secret")
    tree = {"data": {"num_workers": 2}, "model": {"count": "${data.num_workers}", "label": "${oc.env:NAME}"}}
    made = Texts.of(Recipe(tree, data_class="recipe_standins.OtherData"), {}, "recipe_standins.OtherData")
    assert made.public["model"] == {"count": 2, "label": "${oc.env:NAME}"}
    assert made.secrets == {"secret": "${oc.env:NAME}"}
    assert "secret" not in made.recipe("data: {num_workers: 2}\nmodel: {count: 2, label: secret}\nmore: [secret]\n")
