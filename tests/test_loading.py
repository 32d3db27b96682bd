"""`mmcomponents.load` reads folders of every format and runs."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mmcomponents
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.cli.main import main
from mmcomponents.data import load_tokenizer
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.demos.handwriting.builder import make_handwriting
from mmcomponents.generation.inputs import make_renderer
from mmcomponents.training.saved_run import processing_entry, run_checkpoint

LORA = "{backbone: {adapter: {class_path: peft.LoraConfig, init_args: {r: 2, target_modules: [q_proj]}}}}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a run, one with adapters, one with shards, and an export of each."""
    folder = tmp_path_factory.mktemp("runs")
    make_handwriting(folder / "data" / "handwriting", scenes=60, held_out=4, val_scenes=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, flags in {
            "plain": [],
            "lora": ["--model.slots", LORA],
            "shards": ["--trainer.strategy", "fsdp2"],
        }.items():
            settings = [
                "--trainer.default_root_dir",
                name,
                "--trainer.max_steps",
                "2",
                "--trainer.limit_val_batches",
                "0",
                "--data.text.system",
                "Read.",
            ]
            assert main(["fit", "--config", "quickstart", *settings, *flags]) == 0
            run = ["--config", f"{name}/recipe.yaml", "--ckpt_path", f"{name}/checkpoints/last.ckpt"]
            assert main(["export", *run, "--format", "mmcomponents", "--out", f"{name}-export"]) == 0
    torch.distributed.destroy_process_group()  # that of the run with shards
    return folder


def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.logits(torch.arange(9) + 5)
    return found.detach()


@pytest.mark.parametrize("name", ["plain", "lora", "shards"])
def test_a_run_is_loaded_as_its_export(runs: Path, name: str) -> None:
    expected = logits(mmcomponents.load(runs / f"{name}-export"))
    for path in (runs / name, runs / name / "checkpoints" / "last.ckpt"):
        torch.testing.assert_close(logits(mmcomponents.load(path)), expected, rtol=1e-5, atol=1e-5)
    model = mmcomponents.load(str(runs / name), dtype=torch.bfloat16, image_token_id=7)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.image_token_id == 7


@pytest.mark.parametrize("name", ["plain", "plain/checkpoints/last.ckpt", "shards", "plain-export"])
def test_images_and_prompts_are_made_as_in_the_run(runs: Path, name: str) -> None:
    model = copy.deepcopy(mmcomponents.load(runs / name))
    renderer = make_renderer(model, load_tokenizer(runs / "data" / "handwriting" / "tokenizer"))
    assert (renderer.tokens_per_tile, renderer.system, renderer.normalization) == (4, "Read.", "imagenet")
    assert renderer.tiling == Tiling(1, 4, 28, share=False)
    assert [image.num_tiles for image in renderer.tile([Image.new("RGB", (280, 28))])] == [5]


class Broken:
    @property
    def renderer(self) -> object:
        raise ValueError("of another package")


def test_data_that_make_no_prompts_cost_no_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    assert processing_entry(None) == processing_entry(object()) == {}
    assert caplog.text == ""
    assert processing_entry(Broken()) == {}
    assert "the checkpoint does not say how images and prompts are made: of another package" in caplog.text


def test_the_newest_checkpoint_of_a_run_is_taken(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "plain", run)
    newest = run / "checkpoints" / "step=1.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", newest)
    assert run_checkpoint(run) == newest
    assert run_checkpoint(runs / "shards") == runs / "shards" / "checkpoints" / "last.ckpt"
    assert run_checkpoint(runs / "plain-export") is None
    assert run_checkpoint(tmp_path / "nowhere") is None


def test_wrong_paths_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        mmcomponents.load(tmp_path / "nowhere")
    weights = torch.load(runs / "plain" / "checkpoints" / "last.ckpt", weights_only=True)
    broken = tmp_path / "broken.ckpt"
    torch.save(weights | {"processing": {"tiles": 4}}, broken)
    with pytest.raises(CheckpointError, match=r"broken\.ckpt: its processing cannot be read"):
        mmcomponents.load(broken)
    del weights["processing"]
    torch.save(weights, broken)
    model = mmcomponents.load(broken)  # as of data without a tokenizer
    assert make_renderer(model, load_tokenizer(runs / "data" / "handwriting" / "tokenizer")).tiling.tile_size == 28
    settings = weights["hyper_parameters"]
    weights["hyper_parameters"] = {}
    torch.save(weights, tmp_path / "python.ckpt")
    with pytest.raises(CheckpointError, match=r"python.ckpt does not say what its model consists of"):
        mmcomponents.load(tmp_path / "python.ckpt")
    weights["hyper_parameters"] = settings | {"projector": {"class_path": "os.path.Evil", "init_args": {}}}
    torch.save(weights, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match=r"third-party code \(os.path.Evil\).* only with trust_remote_code"):
        mmcomponents.load(tmp_path / "foreign.ckpt")
    weights["hyper_parameters"] = settings | {"slots": {"vision": {"adapter": {"class_path": "os.path.Evil"}}}}
    torch.save(weights, tmp_path / "adapter.ckpt")
    with pytest.raises(ValueError, match=r"the adapter os.path.Evil is none of peft"):
        mmcomponents.load(tmp_path / "adapter.ckpt")
