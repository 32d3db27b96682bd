"""`TimmVision` and `OpenClipVision` with timm and open_clip themselves, and random weights.

`test_real_towers.py` runs this file in an environment that has them; pytest does not collect it elsewhere.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import tiny
from contracts.tiny_parts import BEHIND_VISION
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.testing import Ranks, check_component, image_packs
from mmcomponents.vision import OpenClipVision, TimmVision

SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 3, "patch_size": 4}
VIT = partial(TimmVision, "vit_tiny_patch16_224", image_size=tiny.TILE, model_args={**SMALL, "dynamic_img_size": True})
EVA = partial(
    TimmVision,
    "vit_small_patch16_dinov3",
    image_size=tiny.TILE,
    model_args={**SMALL, "embed_dim": 48},
)
CONVNEXT = partial(
    TimmVision,
    "convnext_atto",
    out_indices=(2,),
    image_size=32,
    model_args={"depths": [1, 2, 1, 1], "dims": [8, 12, 16, 24]},
)
RESNET = partial(TimmVision, "resnet18", out_indices=(2, 3, 4), image_size=64, model_args={"layers": [2, 1, 1, 1]})
SWIN = partial(
    TimmVision,
    "swin_tiny_patch4_window7_224",
    image_size=32,
    model_args={"window_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "drop_path_rate": 0.0},
)
CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": tiny.TILE, "layers": 2, "width": 24, "head_width": 8, "patch_size": tiny.PATCH},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session", autouse=True)
def _small_clip(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Adds a small model to the list of open_clip."""
    folder = tmp_path_factory.mktemp("configurations")
    (folder / "tiny-clip.json").write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(folder)


@pytest.mark.parametrize(
    ("name", "factory", "more"),
    [
        ("ViT", VIT, {}),
        ("EVA with rotary positions", EVA, {}),
        ("ConvNeXt", CONVNEXT, {}),
        ("ResNet with three maps", RESNET, {"neighbours": BEHIND_VISION, "packs": image_packs}),
        ("Swin", SWIN, {}),
    ],
)
def test_models_of_timm_pass_the_contract_tests(name: str, factory: Any, more: Any, two_ranks: Ranks) -> None:
    check_component("vision", factory, ranks=two_ranks, **more)


def test_a_tower_of_open_clip_passes_the_contract_tests() -> None:
    skipped = dict.fromkeys(("two_ranks_equal_one", "sharded_equals_plain"), "the configuration is of this process")
    check_component("vision", partial(OpenClipVision, "tiny-clip"), not_applicable=skipped)


def encoded(part: Any) -> tuple[ImageBatch, list[Tensor]]:
    images = ImageBatch(torch.randn(2, 3, part.image_size, part.image_size), torch.arange(2))
    return images, [each.tokens for each in part.eval()(images).maps]


@pytest.mark.parametrize(
    ("part", "shapes", "units"),
    [
        (partial(TimmVision, "vit_tiny_patch16_224"), [(196, 192)], {"Block"}),
        (partial(TimmVision, "vit_base_patch16_siglip_224", model_args={"depth": 2}), [(196, 768)], {"Block"}),
        (partial(TimmVision, "vit_tiny_patch16_224", out_indices=(2, -2)), [(196, 192)] * 2, {"Block"}),
        (partial(TimmVision, "convnext_atto", out_indices=(1, 2)), [(784, 80), (196, 160)], {"ConvNeXtBlock"}),
        (
            partial(TimmVision, "resnet50", out_indices=(2, 3, 4), image_size=64),
            [(64, 512), (16, 1024), (4, 2048)],
            {"Bottleneck"},
        ),
        (partial(OpenClipVision, "ViT-B-32"), [(49, 768)], {"ResidualAttentionBlock"}),
        (partial(OpenClipVision, "RN50", out_indices=(3, 4)), [(196, 1024), (49, 2048)], {"Bottleneck"}),
    ],
)
def test_sizes_are_those_of_the_library_and_every_weight_has_a_gradient(part: Any, shapes: Any, units: Any) -> None:
    made = part()
    _, maps = encoded(made)
    assert [tuple(each.shape[1:]) for each in maps] == shapes
    widths = tuple(width for _, width in shapes)
    assert made.hidden_size == (widths if len(widths) > 1 else widths[0])
    assert {kind.__name__ for kind in made.shard_units} == units
    sum(each.square().sum() for each in maps).backward()
    assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224", "swin_tiny_patch4_window7_224"]
)
def test_the_output_is_that_of_forward_features(name: str) -> None:
    part = TimmVision(name)
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(part.body.state_dict(), strict=False)
    images, (found,) = encoded(part)
    with torch.no_grad():
        wanted = theirs.forward_features(images.pixels)
    prefix = getattr(theirs, "num_prefix_tokens", 0)
    torch.testing.assert_close(found, wanted.flatten(1, -2)[:, prefix:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "numbers"), [("vit_tiny_patch16_224", (1, -2)), ("convnext_atto", (1, 3)), ("resnet18", (2, 4))]
)
def test_named_maps_are_those_of_features_only(name: str, numbers: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True, out_indices=numbers).eval()
    part = TimmVision(name, out_indices=numbers)
    whole = {key.removeprefix("model."): value for key, value in theirs.state_dict().items()}
    whole |= {key.replace("stages_", "stages.").replace("stem_", "stem."): value for key, value in whole.items()}
    part.body.load_state_dict({key: whole[key] for key in part.body.state_dict()})
    images, maps = encoded(part)
    with torch.no_grad():
        wanted = theirs(images.pixels)
    for ours, each in zip(maps, wanted, strict=True):
        torch.testing.assert_close(ours, each.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def with_vision(part: Any) -> Any:
    return tiny.model(vision=part, merger=None)


@pytest.mark.parametrize("side", [tiny.TILE, 2 * tiny.TILE])
def test_a_folder_of_timm_gives_the_weights_and_positions_of_another_size(tmp_path: Path, side: int) -> None:
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=tiny.TILE, **SMALL).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 5}))
    part = TimmVision("vit_tiny_patch16_224", image_size=side, model_args=SMALL)
    load_initial(with_vision(part), {"vision": tmp_path})
    assert torch.equal(part.body.blocks[1].mlp.fc1.weight, theirs.blocks[1].mlp.fc1.weight)
    if side == tiny.TILE:
        images, (found,) = encoded(part)
        torch.testing.assert_close(found, theirs.forward_features(images.pixels)[:, 1:], rtol=1e-5, atol=1e-5)
    wide = TimmVision("vit_tiny_patch16_224", image_size=side, model_args={**SMALL, "embed_dim": 48})
    with pytest.raises(CheckpointError, match="timm cannot load them into vit_tiny_patch16_224"):
        load_initial(with_vision(wide), {"vision": tmp_path})


def test_a_folder_of_open_clip_gives_the_weights(tmp_path: Path) -> None:
    whole = open_clip.create_model("tiny-clip").eval()
    save_file(
        {name: value.contiguous() for name, value in whole.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    part = OpenClipVision("tiny-clip")
    load_initial(with_vision(part), {"vision": tmp_path})
    images, (found,) = encoded(part)
    with torch.no_grad():
        wanted = whole.visual.forward_intermediates(
            images.pixels, indices=1, normalize_intermediates=True, output_fmt="NLC"
        )
    torch.testing.assert_close(found, wanted["image_intermediates"][0], rtol=1e-5, atol=1e-5)
    gone = {
        name: value
        for name, value in load_file(tmp_path / "open_clip_model.safetensors").items()
        if "resblocks.1" not in name
    }
    save_file(gone, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"has no weights vision\.body\.transformer\.resblocks\.1"):
        load_initial(with_vision(OpenClipVision("tiny-clip")), {"vision": tmp_path})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(TimmVision, "vit_tiny_patch16_225"), "timm has no model 'vit_tiny_patch16_225'; did you mean 'vit_t"),
        (partial(TimmVision, "hf-hub:timm/resnet18.a1_in1k"), "timm has no model 'hf-hub:timm/resnet18.a1_in1k'"),
        (partial(TimmVision, "vit_tiny_patch16_224.other"), "Invalid pretrained tag"),
        (partial(TimmVision, "resnet18", model_args={"depth": 2}), r"resnet18 does not take model_args {'depth': 2}"),
        (partial(TimmVision, "resnet18", model_args={"checkpoint_path": "x"}), "must not have checkpoint_path"),
        (partial(TimmVision, "resnet18", out_indices=(4, 2)), r"out_indices \(4, 2\) must be ascending .* -5 to 4"),
        (partial(TimmVision, "inception_v4"), r"gives \[1, 1536, 8, 8\] for a tile of 299 x 299 pixels"),
        (partial(TimmVision, "coat_tiny"), "coat_tiny gives list, which is no map: name maps by out_indices"),
        (partial(OpenClipVision, "ViT-B-31"), "open_clip has no model 'ViT-B-31'; did you mean 'ViT-B-32'"),
    ],
)
def test_what_is_no_tower_is_one_line(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_tiles_of_another_size_need_positions_of_several() -> None:
    part = TimmVision("vit_tiny_patch16_224", image_size=tiny.TILE, model_args=SMALL)
    with pytest.raises(ValueError, match="takes tiles of 16 x 16 pixels, not 32 x 32: its positions are of one size"):
        part.grid((32, 32))
    assert VIT().grid((32, 16)) == (8, 4)
