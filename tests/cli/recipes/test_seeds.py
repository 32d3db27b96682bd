"""`seed_everything` is the seed of weights and data, unless the recipe gives them one of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.cli.recipes.flags import apply
from mmcomponents.cli.recipes.recipe import Recipe
from mmcomponents.cli.recipes.seeds import with_seeds
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask

OWNERS = {"model": MultimodalTask, "data": PackedDataModule}


def seeds(*settings: tuple[str, str], owners: dict[str, type | None] = OWNERS) -> list[object]:  # type: ignore[assignment]
    recipe = Recipe(tree={"model": {"vocab_size": 8}, "data": {"train": "x.tar"}})
    tree = with_seeds(apply(recipe, list(settings)), owners).resolved()
    return [tree.get("seed_everything"), tree["model"].get("seed"), tree["data"].get("seed")]


def test_one_seed_sets_all_others() -> None:
    assert seeds(("seed_everything", "1")) == ["1", "1", "1"]
    assert seeds(("seed_everything", "1"), ("data.seed", "2")) == ["1", "1", "2"]
    assert seeds(("seed_everything", "1"), ("model.seed", "0")) == ["1", "0", "1"]
    assert seeds() == [None, None, None]
    assert seeds(("seed_everything", "false")) == [False, None, None]


def test_sections_without_a_seed_have_none() -> None:
    assert seeds(("seed_everything", "1"), owners={"model": Path, "data": None}) == ["1", None, None]


def test_a_random_seed_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    drawn = seeds(("seed_everything", "true"))
    assert len({*drawn}) == 1
    assert isinstance(drawn[0], int)
    assert drawn != seeds(("seed_everything", "true"))
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert seeds(("seed_everything", "true")) == [7, 7, 7]
    monkeypatch.setenv("PL_GLOBAL_SEED", "abc")
    with pytest.raises(UserError, match="PL_GLOBAL_SEED must be a whole number, got 'abc'"):
        seeds(("seed_everything", "true"))


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seeds_have_limits(seed: str) -> None:
    with pytest.raises(UserError, match=f"must be from 0 to 4294967295, got {seed}"):
        seeds(("seed_everything", seed))
