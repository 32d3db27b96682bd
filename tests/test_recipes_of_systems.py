"""Shipped recipes of the systems beside InternVL: sizes, settings of the papers, and what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe import load, shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.device_memory import slot_weights
from mmcomponents.training.slots import freeze

SYSTEMS = ("mmfuser",)


def built(name: str) -> tuple[Any, Any]:
    """Returns the task of a recipe and its model on the meta device, with frozen slots frozen."""
    cli = RecipeCLI("plan", Flags(configs=[name]), MultimodalTask, None)
    task: Any = cli.model
    freeze(cli.meta_model, task.slots)
    return task, cli.meta_model


def counts(name: str) -> dict[str, int]:
    return {slot: total for slot, (total, _) in slot_weights(built(name)[1]).items()}


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith(SYSTEMS)])
def test_every_recipe_builds(name: str) -> None:
    task, model = built(name)
    task.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    data = load([name]).resolved().get("data") or {}
    assert data.get("tokens_per_tile", model.tokens_per_tile) == model.tokens_per_tile


def test_mmfuser_adds_its_published_size_to_internvl3() -> None:
    plain, fused = counts("internvl3/8b"), counts("mmfuser/internvl3-8b")
    assert fused.pop("fuser") == 5_190_592
    assert fused == plain
    trained = {slot for slot, (_, own) in slot_weights(built("mmfuser/internvl3-8b-finetune")[1]).items() if own}
    assert trained == {"fuser", "projector", "embedder", "backbone", "head"}


def test_mmfuser_over_clip_is_llava() -> None:
    found = counts("mmfuser/llava-7b")
    assert found["embedder"] + found["backbone"] + found["head"] == 6_738_415_616  # Vicuna-7B
    assert found["fuser"] == 5_190_592
    assert found["projector"] == (1024 + 1) * 4096 + (4096 + 1) * 4096
    layer = 4 * (1024 * 1024 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    stem = 3 * 14 * 14 * 1024 + 577 * 1024 + 1024 + 2 * 1024  # patches, positions, class token, norm before the layers
    assert found["vision"] == stem + 23 * layer
    assert built("mmfuser/llava-7b")[1].tokens_per_tile == 576
    for stage, trained in (("stage1", {"fuser", "projector"}), ("stage2", None)):
        weights = slot_weights(built(f"mmfuser/llava-7b-{stage}")[1])
        assert {s for s, (_, own) in weights.items() if own} == (trained or {*weights} - {"vision", "position"})
