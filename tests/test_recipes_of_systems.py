"""Shipped recipes of the systems beside InternVL: sizes, settings of the papers, and what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmcomponents.cli.recipes.flags import Flags
from mmcomponents.cli.recipes.recipe import load, shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.objectives import Distillation, NextToken
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.device_memory import slot_weights
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.slots import freeze, param_groups

LANGUAGE = {"backbone", "head"}
SYSTEMS = ("dita", "got", "hovle", "langbridge", "midetr", "mmfuser", "piip", "synergen")


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
    if name.startswith("got/3b"):
        pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    task, model = built(name)
    task.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    data = load([name]).resolved().get("data") or {}
    assert model.vision is None or data.get("tokens_per_tile") in (None, model.tokens_per_tile)


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


def test_langbridge_over_clip_and_qwen2_has_the_published_sizes() -> None:
    small, large = counts("langbridge/llava-qwen2-0.5b"), counts("langbridge/llava-qwen2-7b-stage2")
    assert small["projector"] == large["projector"] == 129_790_720
    assert small["embedder"] + small["backbone"] + small["head"] == 494_032_768  # Qwen2-0.5B
    assert large["embedder"] + large["backbone"] + large["head"] == 7_615_616_512  # Qwen2-7B
    for stage, trained in (("stage1", {"projector"}), ("stage2", {"projector", "embedder", "backbone"})):
        task, model = built(f"langbridge/llava-qwen2-0.5b-{stage}")
        assert {slot for slot, (_, own) in slot_weights(model).items() if own} == trained
        (settings,) = task.make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups
        assert settings["lr"] == 2e-5
    plain, bridged = counts("internvl3/8b"), counts("langbridge/internvl3-8b")
    assert bridged.pop("projector") == 145_519_360
    assert bridged == {slot: count for slot, count in plain.items() if slot != "projector"}


def test_hovle_has_its_published_size() -> None:
    """The released folder also has the embedding weight of the language model, which the forward pass does not use."""
    found = counts("hovle/2b")
    table = 92_553 * 2048
    assert sum(found.values()) + table == 2_606_327_808
    layer = 2048 * (16 + 2 * 8) * 128 + 2048 * 2048 + 3 * 2048 * 8192 + 2 * 2048
    assert {slot: count for slot, count in found.items() if count} == {
        "vision": (3 * 14 * 14 + 1) * 2048 + 1025 * 2048 + 2048,
        "projector": (4 * 2048 + 1) * 2048 + (2048 + 1) * 2048,
        "embedder": table + 8 * layer,
        "backbone": 24 * layer + 2048,
        "head": table,
    }
    assert sum(counts("hovle/2b-post").values()) == sum(found.values())  # the contraction takes the projector's place
    for name in ("hovle/2b", "hovle/2b-post"):
        model = built(name)[1]
        assert model.tokens_per_tile == 256
        assert model.embedder.head_dim == model.backbone.head_dim == 128


def test_each_stage_of_hovle_trains_what_the_paper_trains() -> None:
    holistic = {"vision", "projector", "embedder"}
    for stage, trained in (("distillation", holistic), ("alignment", holistic), ("finetune", holistic | LANGUAGE)):
        task, model = built(f"hovle/2b-{stage}")
        assert {slot for slot, (_, own) in slot_weights(model).items() if own} == trained
        assert type(task.make_objective()) is (Distillation if stage == "distillation" else NextToken)
    slots = {group["name"].partition("/")[0] for group in param_groups(model, task.slots)}
    assert slots == holistic | {"backbone", "heads.lm"}


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
    frozen = [name for name, p in model.vision.named_parameters() if not p.requires_grad]
    assert frozen == ["conv1.weight"]


def test_synergen_has_the_published_sizes() -> None:
    _, model = built("synergen/2b")
    frozen = sum(p.numel() for p in model.vision.tokenizer.parameters())
    weights = sum(p.numel() for p in model.parameters()) - frozen
    blocks = 24 * 3 * 2048 * 8192
    assert sum(p.numel() for layer in model.backbone.layers for p in layer.image_mlp.parameters()) == blocks
    assert weights == 3_629_840_384  # 3.6 B
    assert f"{(weights - blocks) / 1e9:.1f}" == "2.4"  # activated: one of both blocks
    assert model.tokens_per_tile == 256
    assert model.vision.grid((512, 512)) == (64, 64)
    assert (model.vision.codebook_size, model.heads["vq_unfold"].cells) == (32_768, 16)


@pytest.mark.parametrize("prefix", ["synergen/2b", "synergen/tiny"])
def test_the_first_stage_of_synergen_trains_what_images_need(prefix: str) -> None:
    task, model = built(f"{prefix}-stage1")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    for name, parameter in model.named_parameters():
        own = name.startswith(("vision.embedding.", "vision.positions", "projector.", "heads.vq_unfold."))
        assert parameter.requires_grad == (own or ".image_mlp." in name or name == "embedder.unconditional"), name
    assert task.make_objective().image_weight == 2.0


def test_later_stages_of_synergen() -> None:
    _, second = built("synergen/2b-stage2")
    kinds = {name.split(".")[3] for name, p in second.backbone.named_parameters(prefix="backbone") if p.requires_grad}
    assert kinds == {"image_mlp", "self_attn"}
    assert not second.heads["lm"].weight.requires_grad
    _, last = built("synergen/2b-instruct")
    frozen = {name for name, p in last.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in last.named_parameters() if name.startswith("vision.tokenizer.")}


def test_dita_has_the_sizes_of_its_parts() -> None:
    """336.3 M weights, of which 213.2 M are trained; the paper has 334 M and 221 M."""
    task, model = built("dita/334m-pretraining")
    weights = slot_weights(model)
    attention = 4 * 768 * 768 + 768
    film = 2 * (768 * 768 + 768)
    block = 2 * attention + 2 * 768 * 3072 + 3072 + 768 + 3 * 2 * 768 + film
    assert weights["merger"][0] == 4 * block + 32 * 768 + 2 * 768
    assert weights["backbone"][0] == 12 * (4 * 768 * 768 + 3 * 768 * 2048 + 2 * 768) + 768
    assert weights["embedder"] == (123_060_480, 0)  # CLIP's text tower, frozen
    assert weights["head"][0] == 7 * 768
    assert sum(total for total, _ in weights.values()) == 336_287_232
    assert sum(own for _, own in weights.values()) == 213_226_752
    groups = {group["name"]: group for group in param_groups(model, task.slots)}
    assert groups["vision"]["lr"] == pytest.approx(1e-5)
    assert model.tokens_per_tile == 32
    assert model.heads["actions"].schedule.levels == 1000
    assert built("dita/334m-finetune")[1].heads["actions"].schedule.levels == 100
    assert {type(built(f"dita/tiny{name}")[1].heads["actions"]).__name__ for name in ("", "-regression")} == {
        "DenoisingHead",
        "ActionHead",
    }


def test_got_has_the_sizes_of_its_parts() -> None:
    pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
    _, model = built("got/3b")
    head, coder = model.heads["picture"], model.heads["autoencoder"]
    unet, vae = (sum(p.numel() for p in part.parameters()) for part in (head.denoiser, coder))
    assert unet == 2_567_463_684 + 8 * 320 * 9  # SDXL's, and eight further channels of its first convolution
    assert vae == 83_653_863
    assert head.context.weight.shape == (2048, 2048)
    assert head.pooled.weight.shape == (1280, 2048)
    assert head.num_queries == model.embedder.num_queries == 64
    words = model.embedder.embedding.weight.numel() + sum(p.numel() for p in model.backbone.parameters())
    assert words == 3_085_402_112  # Qwen2.5-3B, with the vocabulary of InternVL
    assert (head.schedule.levels, coder.scale, coder.latent_size) == (1000, 0.13025, 128)


@pytest.mark.parametrize("name", ["got/autoencoder", "got/tiny"])
def test_got_trains_the_autoencoder_apart(name: str) -> None:
    _, model = built(name)
    trained = {name.split(".")[1] for name, p in model.heads.named_parameters("heads") if p.requires_grad}
    assert trained - {"lm"} == {"autoencoder" if name == "got/autoencoder" else "picture"}  # the head is tied
    assert model.embedder.queries.requires_grad == (name == "got/tiny")
