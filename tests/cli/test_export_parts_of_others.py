"""Folders of models with parts of an installed package, parts inside parts included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_import_export import RECIPE, refused
from torch import Tensor

from mmcomponents.checkpoints import CheckpointError, load, load_initial, read
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.compose import short_names
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask

SOURCE = """
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.fusers import Fuser
from mmcomponents.vision import VisionEncoder


class Mean(VisionEncoder):
    '''Mean of the maps of several encoders.'''

    def __init__(self, branches: dict[str, Callable[[], VisionEncoder]]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: make() for name, make in branches.items()})
        first = next(iter(self.branches.values()))
        self.hidden_size, self.image_size, self.patch_size = first.hidden_size, first.image_size, first.patch_size

    def grid(self, pixel_hw):
        return next(iter(self.branches.values())).grid(pixel_hw)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        found = [branch(images) for branch in self.branches.values()]
        tokens = torch.stack([features.primary.tokens for features in found]).mean(0)
        return replace(found[0], maps=[replace(found[0].primary, tokens=tokens)])


class Gate(Fuser):
    '''Map times a learnt gate.'''

    def __init__(self, width: int, start: float = 1.0) -> None:
        super().__init__()
        self.in_features = self.out_features = width
        self.start = start
        self.gate = nn.Parameter(torch.empty(width))
        self.register_buffer("shift", torch.full((width,), 0.25))
        self.init_weights()

    def init_parameter(self, name, value, generator):
        value.fill_(self.start)

    def init_buffer(self, name, value):
        value.fill_(0.25)
        return True

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        first = features.primary
        return replace(features, maps=[replace(first, tokens=first.tokens * self.gate + self.shift)])
"""
BRANCH = "{class_path: InternViT, init_args: {hidden_size: 24, num_layers: %d, num_heads: 3, intermediate_size: 40, \
image_size: 28, patch_size: 7}}"
OWN = f"""
extends: r.yaml
model:
  vision:
    class_path: Mean
    init_args: {{branches: {{deep: {BRANCH % 2}, flat: {BRANCH % 1}}}}}
  fuser: {{class_path: Gate, init_args: {{start: 0.5}}}}
"""
TOKENS = torch.arange(6, 30)
ENTRIES = "[mmcomponents.components]\nvision.Mean = gates:Mean\nfuser.Gate = gates:Gate\n"


def logits(model: Any) -> Tensor:
    images = torch.where(TOKENS < 14, model.image_token_id, TOKENS)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = model.eval().logits(images, pixels)
    return found


@pytest.fixture
def gates(write: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installs the package for one test."""
    write("site/gates-1.0.dist-info/METADATA", "Name: gates-of-others\nVersion: 1.0\n")
    write("site/gates-1.0.dist-info/entry_points.txt", ENTRIES)
    module = write("site/gates.py", SOURCE)
    monkeypatch.syspath_prepend(str(module.parent))
    yield module.parent
    import sys

    sys.modules.pop("gates", None)


@pytest.fixture
def task(gates: Path) -> Any:
    """A run with parts of the package, and its export `out`."""
    Path("r.yaml").write_text(RECIPE)
    Path("g.yaml").write_text(OWN)
    train_tokenizer(["Read the digits in order.", "3 7 1"] * 3, 300).save_pretrained("tok")
    cli = RecipeCLI("generate", sort_flags(["--config", "g.yaml"]), MultimodalTask, PackedDataModule)
    made: Any = cli.model
    made.configure_model()
    made.model.image_token_id = cli.datamodule.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    torch.save({"state_dict": dict(made.state_dict())}, "last.ckpt")
    run = ["--config", "g.yaml", "--ckpt_path", "last.ckpt"]
    assert main(["export", *run, "--format", "mmcomponents", "--out", "out"]) == 0
    return made


def test_a_folder_names_parts_of_an_installed_package_shortly(task: Any) -> None:
    config = json.loads(Path("out/config.json").read_text())["model"]
    assert (config["vision"]["class_path"], config["vision"]["package"]) == ("Mean", "gates-of-others")
    assert config["vision"]["init_args"]["branches"]["deep"]["class_path"] == "InternViT"
    assert config["fuser"] == {"class_path": "Gate", "package": "gates-of-others", "init_args": {"start": 0.5}}
    torch.testing.assert_close(logits(load("out")), logits(task.model), rtol=0, atol=0)


@pytest.mark.parametrize("weights", ["out", {"fuser": "out", "vision": "out"}])
def test_a_run_starts_from_it(task: Any, weights: Any) -> None:
    cli = RecipeCLI("generate", sort_flags(["--config", "g.yaml"]), MultimodalTask, PackedDataModule)
    other: Any = cli.model
    other.seed, other.weights = 5, weights
    other.configure_model()
    for name, value in task.model.named_parameters():
        if name.startswith(("vision.", "fuser.")):
            assert torch.equal(other.model.get_parameter(name), value), name


def test_a_package_that_is_not_installed_is_named(
    task: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("site/gates-1.0.dist-info")
    said = "Mean is a vision of the package gates-of-others, which is not installed"
    with pytest.raises(CheckpointError, match=said):
        load("out")
    assert said in refused(capsys, "generate", "out", "--prompt", "hello")
    with pytest.raises(CheckpointError, match=said):
        load_initial(task.model, "out")


def test_a_package_of_an_inner_part_is_named(task: Any) -> None:
    config = json.loads(Path("out/config.json").read_text())
    config["model"]["vision"]["init_args"]["branches"]["flat"] |= {"class_path": "ThinViT", "package": "thin-vit"}
    Path("out/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="ThinViT is a part of the package thin-vit, which is not installed"):
        load("out")


def test_a_dotted_path_of_a_folder_needs_permission(task: Any) -> None:
    config = json.loads(Path("out/config.json").read_text())
    deep = config["model"]["vision"]["init_args"]["branches"]["deep"]
    deep["class_path"] = "vit_of_others.ViT"
    Path("out/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"third-party code \(vit_of_others\.ViT\)"):
        read("out")
    Path("site/vit_of_others.py").write_text(
        "from mmcomponents.vision import InternViT\n\nclass ViT(InternViT): pass\n"
    )
    torch.testing.assert_close(logits(load("out", trust_remote_code=True)), logits(task.model), rtol=0, atol=0)
    task.weights, task.model = "out", None
    with pytest.raises(CheckpointError, match="third-party code"):
        task.configure_model()
    task.trust_remote_code = True
    task.configure_model()


@pytest.mark.parametrize("key", ["num_layer", "hidden_sise"])
def test_a_misspelt_argument_of_an_inner_part_is_one_line(
    task: Any, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(Path("out/config.json").read_text())
    config["model"]["vision"]["init_args"]["branches"]["deep"]["init_args"][key] = 2
    Path("out/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"'{key}'"):
        load("out")
    flag = [f"--model.vision.branches.deep.init_args.{key}", "2"]
    error = refused(capsys, "plan", "--config", "g.yaml", *flag)
    assert key in error


def test_what_no_package_declares_keeps_its_dotted_path() -> None:
    part = {
        "class_path": "somewhere.Else",
        "init_args": {"inner": {"class_path": "mmcomponents.mergers.PixelUnshuffle"}},
    }
    assert short_names(part) == {
        "class_path": "somewhere.Else",
        "init_args": {"inner": {"class_path": "PixelUnshuffle", "init_args": {}}},
    }
