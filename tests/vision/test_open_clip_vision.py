"""Towers of open_clip as encoders, with a small tower in place of these; `real_towers.py` has those of open_clip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.vision import OpenClipVision
from tower_standins import ClipTower, StandInOpenClip


def images() -> ImageBatch:
    return ImageBatch(torch.randn(2, 3, tiny.TILE, tiny.TILE), torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize(("out_indices", "numbers", "norm"), [(None, [2], True), ((0, -2), [0, 1], False)])
def test_maps_are_those_of_the_tower(out_indices: tuple[int, ...] | None, numbers: list[int], norm: bool) -> None:
    part = StandInOpenClip("tiny-clip", out_indices).eval()
    whole = ClipTower(8, tiny.TILE, 24, 3).eval()
    whole.load_state_dict(part.body.state_dict(), strict=False)
    batch = images()
    with torch.no_grad():
        wanted = whole.forward_intermediates(
            batch.pixels, numbers, normalize_intermediates=norm, intermediates_only=True
        )["image_intermediates"]
    for found, each in zip(part(batch).maps, wanted, strict=True):
        torch.testing.assert_close(found.tokens, each.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)


def saved(folder: Path, file: str, depth: int = 3) -> ClipTower:
    """Writes a folder as open_clip does, beside the files of transformers, and returns its vision tower."""
    tower = ClipTower(8, tiny.TILE, 24, depth).eval()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(std=0.3)
    state = {f"visual.{name}": value for name, value in tower.state_dict().items()}
    save_file({**state, "text_projection": torch.zeros(2, 2)}, folder / file)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
    return tower


@pytest.mark.parametrize("both", [True, False])
def test_a_folder_of_open_clip_gives_the_weights(tmp_path: Path, both: bool) -> None:
    tower = saved(tmp_path, "open_clip_model.safetensors")
    if both:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
        save_file({"vision_model.embeddings.class_embedding": torch.zeros(24)}, tmp_path / "model.safetensors")
    part = StandInOpenClip("tiny-clip").eval()
    load_initial(tiny.model(vision=part), {"vision": tmp_path})
    assert all(torch.equal(value, tower.get_parameter(name)) for name, value in part.body.named_parameters())


def test_a_folder_that_lacks_weights_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path, "open_clip_model.safetensors", depth=2)
    with pytest.raises(CheckpointError, match=r"has no weights vision\.body\.resblocks\.2\."):
        load_initial(tiny.model(vision=StandInOpenClip("tiny-clip")), {"vision": tmp_path})


def test_the_tile_size_may_be_given_and_unknown_names_are_one_line() -> None:
    part = StandInOpenClip("tiny-clip", image_size=2 * tiny.TILE)
    assert part.grid((32, 32)) == (8, 8)
    with pytest.raises(ValueError, match=r"^open_clip has no model 'tinyclip'; did you mean 'tiny-clip'\?$"):
        StandInOpenClip("tinyclip")


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^OpenClipVision needs open_clip: pip install 'mmcomponents\[open_clip\]'$"
    ):
        OpenClipVision("ViT-B-32")
