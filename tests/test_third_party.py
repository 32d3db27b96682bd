"""The package of examples/third_party, installed by pip, provides a part that recipes name by its short name.

A run with its projector is trained, exported, loaded and the start of another run. All verbs run in this process;
`examples/test_third_party_package.py` has the package in an environment of its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mmcomponents
from mmcomponents import registry
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.training import MultimodalTask

PACKAGE = Path(__file__).parents[1] / "examples" / "third_party"
RECIPE = """
extends: quickstart
model:
  vocab_size: 400
  vision: {init_args: {hidden_size: 24, num_layers: 1, num_heads: 3, intermediate_size: 40}}
  projector: {class_path: PlaceProjector, init_args: {num_frequencies: 3}}
  backbone: {init_args: {hidden_size: 32, num_layers: 1, num_heads: 4, num_kv_heads: 2, intermediate_size: 48}}
data:
  train: data/train-*.tar
  val: data/val-*.tar
  test: data/test-*.tar
  tokenizer: data/tokenizer
trainer:
  max_steps: 3
  limit_val_batches: 0
  logger: false
  enable_progress_bar: false
  default_root_dir: runs/first
  callbacks:
    - class_path: mmcomponents.training.FinalCheckpoint
      init_args: {dirpath: "${trainer.default_root_dir}/checkpoints"}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder where pip has installed the package."""
    folder = tmp_path_factory.mktemp("pointing")
    shutil.copytree(PACKAGE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "source")], check=True)
    return folder / "site"


@pytest.fixture
def _installed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_installed")
def test_it_is_listed_with_its_package_arguments_and_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.resolve("projector", "PlaceProjector") == "pointing.PlaceProjector"
    summary = "Linear map of each visual token and of the place that it has in its tile."
    assert main(["components", "projector", "--json"]) == 0
    listed = {part["name"]: part for part in json.loads(capsys.readouterr().out)}
    assert listed["PlaceProjector"] == {
        "slot": "projector",
        "name": "PlaceProjector",
        "package": "mmcomponents-pointing",
        "version": "0.1.0",
        "path": "pointing.PlaceProjector",
        "summary": summary,
        "arguments": {"in_features": "", "out_features": "", "num_frequencies": "4"},
    }
    assert main(["components", "projector", "--arguments"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("mmcomponents-pointing 0.1.0", "in_features, out_features, num_frequencies=4", summary[:40]):
        assert words in shown


@pytest.mark.usefixtures("_installed")
def test_no_part_of_the_package_has_the_name_of_another_one() -> None:
    """A name that two packages declare is refused, and a later part of the library may take it."""
    own = [part for slot in registry.slots() for part in registry.available(slot)]
    own = [part for part in own if part.package == "mmcomponents-pointing"]
    assert len(own) == 7
    assert [registry.resolve(part.slot, part.name) for part in own] == [part.path for part in own]


@pytest.mark.usefixtures("_installed")
def test_it_is_trained_exported_loaded_and_the_start_of_another_run() -> None:
    make_handwriting("data", scenes=8, held_out=1, val_scenes=1, vocab_size=400)
    Path("own.yaml").write_text(RECIPE)
    assert main(["fit", "--config", "own.yaml"]) == 0
    checkpoint = "runs/first/checkpoints/last.ckpt"
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]

    run = ["--config", "own.yaml", "--ckpt_path", checkpoint]
    assert main(["export", *run, "--format", "mmcomponents", "--out", "folder"]) == 0
    written = json.loads(Path("folder/config.json").read_text())["model"]["projector"]
    assert written == {
        "class_path": "PlaceProjector",
        "package": "mmcomponents-pointing",
        "init_args": {"num_frequencies": 3},
    }

    loaded: Any = mmcomponents.load("folder").projector
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, trained[f"model.projector.{name}"]), name
    tokens = VisualFeatures([FeatureMap(torch.randn(1, 4, loaded.in_features), (2, 2))])
    assert loaded(tokens).shape == (1, 4, 32)

    flags = ["--trainer.default_root_dir", "runs/second", "--model.optimizer.lr", "0", "--seed_everything", "9"]
    assert main(["fit", "--config", "own.yaml", *flags, "--model.weights", "folder"]) == 0
    again = torch.load("runs/second/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in trained.items():
        assert torch.equal(again[name], value), name
    assert main(["fit", "--config", "own.yaml", *flags, "--trainer.default_root_dir", "runs/third"]) == 0
    drawn = torch.load("runs/third/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(drawn["model.projector.token.weight"], trained["model.projector.token.weight"])


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("name", ["PlaceProjector", "pointing.PlaceProjector"])
def test_a_flag_swaps_it_in(name: str) -> None:
    train_tokenizer(["Read the digits in order.", "3 7 1"] * 3, 300).save_pretrained("tokenizer")
    flags = ["--config", "quickstart", "--data.tokenizer", "tokenizer"]
    swap = ["--model.projector", name, "--model.projector.num_frequencies", "5"]
    cli = RecipeCLI("plan", sort_flags([*flags, *swap]), MultimodalTask, PackedDataModule)
    cli.model.configure_model()
    assert type(cli.model.model.projector).__name__ == "PlaceProjector"
    assert cli.model.model.projector.num_frequencies == 5
