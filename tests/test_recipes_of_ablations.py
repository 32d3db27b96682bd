"""The ablations that come with the library: each variant is a recipe whose model can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcomponents.cli.ablation.ablation_spec import Ablation, make_ablation, read_file
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.training import MultimodalTask

FOLDER = Path(__file__).parents[1] / "recipes" / "ablations"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
NEEDS_FILES = ("LangBridge",)
"""Variants whose parts read files, which `tests/projectors` makes."""


def ablation(name: str) -> Ablation:
    return make_ablation(read_file(f"ablations/{name}"), (), {}, (), None)


@pytest.mark.parametrize("name", NAMES)
def test_each_variant_is_a_recipe_of_a_model(name: str) -> None:
    found = ablation(name)
    assert len(found.variants) >= 2
    assert found.seeds == (0, 1, 2)
    for variant in found.variants:
        cli = RecipeCLI("plan", sort_flags(variant.flags()), MultimodalTask, None)
        if variant.name.partition("=")[2] not in NEEDS_FILES:
            assert sum(parameter.numel() for parameter in cli.meta_model.parameters()) > 100_000


def test_the_page_has_all_ablations() -> None:
    page = (Path(__file__).parents[1] / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`ablations/{name}`" not in page] == []
