from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmcomponents.cli.flags import Flags
from mmcomponents.cli.recipe import SHIPPED, load, merge, shipped
from mmcomponents.cli.run import RecipeCLI
from mmcomponents.model import MultimodalModel
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory import count, slot_parameters

ROOT = next(root for root in SHIPPED if root.is_dir())
MODELS = [name for name in shipped() if name.startswith("internvl")]
VIT_300M, VIT_6B = 304_012_288, 5_536_496_000

# Sums and projectors of InternVL3: arXiv 2504.10479, table 1, computed from the published configurations.
TOTALS = {
    "internvl3/1b": (938_193_024, VIT_300M, 4_482_816),
    "internvl3/2b": (2_088_957_440, VIT_300M, 8_662_016),
    "internvl3/8b": (7_944_373_760, VIT_300M, 27_540_480),
    "internvl3/14b": (15_117_256_704, VIT_300M, 47_204_352),
    "internvl3/38b": (38_388_164_992, VIT_6B, 91_786_240),
    "internvl3/78b": (78_408_318_336, VIT_6B, 172_008_448),
}


def model(name: str) -> MultimodalModel:
    """A shipped recipe's model, on the meta device."""
    task: Any = RecipeCLI("plan", Flags(configs=[name]), MultimodalTask, None).model
    with torch.device("meta"):
        built: MultimodalModel = task.factories.build(task.vocab_size, task.image_token_id)
    return built


def counts(built: MultimodalModel) -> dict[str, int]:
    return {slot: count(own) for slot, own in slot_parameters(built).items()}


def repeated(delta: dict[str, Any], base: Any, key: str = "") -> list[str]:
    """Values of a recipe that its base has already."""
    if not isinstance(base, dict):
        return []
    found = []
    for name, value in delta.items():
        if name in base and isinstance(value, dict):
            found += repeated(value, base[name], f"{key}{name}.")
        elif name in base and base[name] == value:
            found.append(f"{key}{name}")
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_is_built_without_weights(name: str) -> None:
    built = model(name)
    assert all(p.is_meta for p in built.parameters())
    assert built.tokens_per_tile == 256
    assert not built.heads["lm"].is_tied
    sizes = counts(built)
    if name in TOTALS:
        total, vision, projector = TOTALS[name]
        assert (sum(sizes.values()), sizes["vision"], sizes["projector"]) == (total, vision, projector)


def test_the_parts_have_the_golden_sizes() -> None:
    golden = json.loads((Path(__file__).parent / "golden" / "j_param_counts.json").read_text())["counts"]
    for size, wanted in golden.items():
        sizes = counts(model(f"internvl3/{size.lower()}"))
        assert sizes["vision"] == wanted["vision"]
        assert sizes["projector"] == wanted["projector"]
        assert sizes["embedder"] + sizes["backbone"] == wanted["text_wo_head"]
        assert sizes["head"] == wanted["lm_head"]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("internvl3/9b", "9.14"),
        ("internvl2_5/4b", "3.7"),
        ("internvl3_5/1b", "1.1"),
        ("internvl3_5/2b", "2.3"),
        ("internvl3_5/4b", "4.7"),
        ("internvl3_5/8b", "8.5"),
        ("internvl3_5/14b", "15.1"),
    ],
)
def test_other_sizes_round_to_the_published_ones(name: str, billions: str) -> None:
    digits = len(billions.partition(".")[2])
    assert f"{sum(counts(model(name)).values()) / 1e9:.{digits}f}" == billions


def test_recipes_of_models_say_nothing_of_data_and_training() -> None:
    assert len(MODELS) == 16
    for name in MODELS:
        tree = load([name]).resolved()
        assert set(tree) == {"model"}
        assert not {"optimizer", "scheduler", "slots"} & set(tree["model"])


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.yaml")), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_line_of_a_recipe_repeats_its_base(file: Path) -> None:
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    parents = own.pop("extends", [])
    base = load([parents] if isinstance(parents, str) else parents).tree
    assert repeated(own, base) == []


def test_a_repeated_line_is_found() -> None:
    base = {"model": {"backbone": {"init_args": {"eps": 1e-6, "size": 3}}, "vocab": 5}}
    delta = {"model": {"backbone": {"init_args": {"eps": 1e-6, "size": 4}}, "vocab": 5, "seed": 0}}
    assert repeated(delta, base) == ["model.backbone.init_args.eps", "model.vocab"]
    assert repeated(delta, merge(base, {"model": {"vocab": 6, "backbone": {"init_args": {"eps": 0.1}}}})) == []
