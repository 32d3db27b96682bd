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
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.slots import freeze, param_groups

SYSTEMS = ("mmfuser", "piip", "midetr")


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
    assert data.get("tokens_per_tile") in (None, model.tokens_per_tile)


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


def encoder_flops(name: str, *settings: tuple[str, Any]) -> float:
    """Returns the multiply-adds of the encoder for an image, in 1e9, as the paper counts them."""
    cli = RecipeCLI("plan", Flags(configs=[name], settings=list(settings)), MultimodalTask, None)
    model = cli.meta_model
    batch = synthetic_pack(model, 2048, 1)
    return model.vision.flops(batch) / 2e9


def test_encoders_have_the_published_cost() -> None:
    """arXiv 2501.07783: 422 G for CLIP-B and CLIP-L at 512 and 448 pixels, and 191 G for the CLIP-L of LLaVA-1.5."""
    assert encoder_flops("piip/llava-7b") == pytest.approx(422, rel=0.005)
    whole = ("model.vision.init_args.levels", "[24]")
    assert encoder_flops("mmfuser/llava-7b", ("model.fuser", "null"), whole) == pytest.approx(191, rel=0.005)


def test_piip_over_internvl3() -> None:
    plain = counts("internvl3/8b")
    _, model = built("piip/internvl3-8b")
    found = counts("piip/internvl3-8b")
    assert sum(p.numel() for p in model.vision.branches["large"].parameters()) == plain["vision"]
    assert {slot: found[slot] for slot in plain if slot != "vision"} == {s: plain[s] for s in plain if s != "vision"}
    assert model.vision.grids((896, 896)) == [(32, 32), (64, 64)]
    assert model.tokens_per_tile == 256
    task, model = built("piip/internvl3-8b-finetune")
    groups = {group["name"]: group for group in param_groups(model, task.slots)}
    (default,) = task.make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert groups["vision/interactions.*"]["lr"] == pytest.approx(10 * default["lr"])
    assert "vision/branches.large.*" not in groups


def test_midetr_over_resnet50() -> None:
    many, lite, plain = (counts(f"midetr/{name}") for name in ("r50", "r50-lite", "dino-r50"))
    assert many["vision"] == lite["vision"] == plain["vision"] == 23_454_912  # without norms, which are buffers
    unified = 5 * (512 * 256 + 256 + 2 * 256)
    assert many["fuser"] - plain["fuser"] == unified
    attention = 4 * (256 * 256 + 256)
    layer = attention + 256 * 384 + 384 + 2 * (256 * 256 + 256) + 2 * 256 * 2048 + 2048 + 256 + 6 * 256
    fusion = 4 * 256 * 256 + 256 + 2 * 256
    assert many["head"] - plain["head"] == 6 * 3 * layer + fusion
    assert many["head"] - lite["head"] == 6 * 3 * (attention + 2 * 256)
    task, model = built("midetr/r50-coco")
    groups = {group["name"]: group for group in param_groups(model, task.slots)}
    (default,) = task.make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert groups["vision/*"]["lr"] == pytest.approx(default["lr"] / 10)
    assert not any(
        p.requires_grad for name, p in model.vision.named_parameters() if name.startswith(("conv1", "layer1"))
    )
