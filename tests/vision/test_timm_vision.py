"""Models of timm as encoders, with small models in place of timm's; `real_towers.py` has those of timm."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.cli.main import main
from mmcomponents.vision import TimmVision
from tower_standins import StandInTimm, create_model


def images(side: int = tiny.TILE) -> ImageBatch:
    return ImageBatch(torch.randn(2, 3, side, side), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "arguments"), [("vit", {}), ("convnet", {}), ("convnet", {"output_fmt": "NHWC"})], ids=str
)
def test_the_output_is_that_of_forward_features(name: str, arguments: dict[str, Any]) -> None:
    part = StandInTimm(name, model_args=arguments).eval()
    batch = images()
    found = part(batch).primary
    with torch.no_grad():
        wanted = part.body.forward_features(batch.pixels)
    if name == "vit":
        assert torch.equal(found.tokens, wanted[:, 1:])
    else:
        image = wanted.permute(0, 3, 1, 2) if arguments else wanted
        assert found.hw == (2, 2)
        assert torch.equal(found.tokens[:, 2], image[:, :, 1, 0])


def test_named_maps_have_no_norm_and_stop_at_the_last_one() -> None:
    part = StandInTimm("vit", (0, -2)).eval()
    whole = create_model("vit", num_classes=0, img_size=tiny.TILE).eval()
    whole.load_state_dict(part.body.state_dict(), strict=False)
    batch = images()
    with torch.no_grad():
        wanted = whole.forward_intermediates(batch.pixels, [0, 1], intermediates_only=True)
    for found, each in zip(part(batch).maps, wanted, strict=True):
        torch.testing.assert_close(found.tokens, each.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert part.hidden_size == (tiny.VISION, tiny.VISION)


@pytest.mark.parametrize(("name", "side", "expected"), [("vit", None, 16), ("vit.large", None, 32), ("vit", 24, 24)])
def test_the_tile_size_is_that_of_the_weights_or_is_given(name: str, side: int | None, expected: int) -> None:
    part = StandInTimm(name, image_size=side)
    assert part.image_size == expected
    assert part.grid((expected, expected)) == (expected // tiny.PATCH,) * 2
    assert part(images(expected)).primary.hw == part.grid((expected, expected))


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("vitt", {}, "timm has no model 'vitt'; did you mean 'vit'?"),
        ("hf-hub:timm/vit", {}, "timm has no model 'hf-hub:timm/vit'"),
        ("local-dir:vit", {}, "timm has no model 'local-dir:vit'"),
        ("vit.other", {}, "timm has no weights 'vit.other': Invalid pretrained tag (other) for vit."),
        ("vit", {"model_args": {"checkpoint_path": "w.pth"}}, "must not have checkpoint_path: TimmVision sets or ref"),
        ("vit", {"model_args": {"pretrained": True, "img_size": 8}}, "model_args must not have img_size, pretrained"),
        ("vit", {"model_args": {"embed_dims": 3}}, "vit does not take model_args {'embed_dims': 3"),
        ("vit", {"model_args": {"depth": 10**9}}, "depth must be a number of at most 1,000"),
        ("vit", {"image_size": 0}, "image_size must be from 1"),
    ],
)
def test_wrong_arguments_are_one_line(name: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        StandInTimm(name, **more)
    assert "\n" not in str(caught.value)


def saved(folder: Path, classes: int = 5, **arguments: Any) -> Any:
    """Writes a folder as timm does, and returns its model."""
    model = create_model("vit", num_classes=classes, img_size=tiny.TILE, **arguments).eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "vit", "num_classes": classes}))
    return model


def test_a_folder_of_timm_gives_the_weights(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    part = StandInTimm("vit").eval()
    batch = images()
    before = part(batch).primary.tokens
    load_initial(tiny.model(vision=part), {"vision": tmp_path})
    with torch.no_grad():
        found = part(batch).primary.tokens
        assert torch.equal(found, theirs.forward_features(batch.pixels)[:, 1:])
    assert (found - before).abs().max() > 0.01


def test_weights_of_another_size_are_one_line(tmp_path: Path) -> None:
    saved(tmp_path, depth=2)
    with pytest.raises(CheckpointError, match=r"timm cannot load them into vit: Error.* Missing key") as caught:
        load_initial(tiny.model(vision=StandInTimm("vit")), {"vision": tmp_path})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = "TimmVision needs timm: pip install 'mmcomponents[timm]'"
    with pytest.raises(ModuleNotFoundError, match=r"^TimmVision needs timm") as caught:
        TimmVision("vit_tiny_patch16_224")
    assert str(caught.value) == said
    flags = ["--model.vision", "TimmVision", "--model.vision.model_name", "vit_tiny_patch16_224"]
    assert main(["plan", "--config", "quickstart", *flags]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmcomponents: ")]
    assert said in line
