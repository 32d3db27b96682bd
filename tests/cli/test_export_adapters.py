"""`mmcomponents export` of a run with adapters, which are merged into the weights of the model."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_import_export import RECIPE, refused
from torch import Tensor

from mmcomponents.checkpoints import merge_adapters, read
from mmcomponents.cli.main import main
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask

ADAPTERS = """
extends: r.yaml
model:
  slots:
    vision:
      adapter: {class_path: peft.IA3Config, init_args: {target_modules: [qkv, fc2], feedforward_modules: [fc2]}}
    backbone:
      adapter:
        class_path: peft.LoraConfig
        init_args: {r: 4, lora_dropout: 0.5, target_modules: [q_proj, v_proj, down_proj], use_dora: true}
"""
RUN = ["--config", "a.yaml", "--ckpt_path"]
TOKENS = torch.arange(6, 30)


def logits(model: Any) -> Tensor:
    images = torch.where(TOKENS < 14, model.image_token_id, TOKENS)
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = model.eval().logits(images, pixels)
    return found


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with recipe, tokenizer and two kinds of checkpoints of a run, and its task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("run"))
        task = make_run()
    return folder, task


@pytest.fixture
def task(run_folder: tuple[Path, Any], write: Callable[[str, str], Path]) -> Any:
    """Copies the run to the working directory; returns a copy of its task."""
    folder, made = run_folder
    shutil.copytree(folder, Path(), dirs_exist_ok=True)
    return copy.deepcopy(made)


def make_run(recipe: str = "a.yaml") -> Any:
    torch.manual_seed(0)
    Path("r.yaml").write_text(RECIPE)
    Path("a.yaml").write_text(ADAPTERS)
    train_tokenizer(["Read the digits in order.", "3 7 1"] * 3, 300).save_pretrained("tok")
    cli = RecipeCLI("generate", sort_flags(["--config", recipe]), MultimodalTask, PackedDataModule)
    made: Any = cli.model
    made.configure_model()
    made.model.image_token_id = cli.datamodule.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    with torch.no_grad():
        for p in made.model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    state = {"state_dict": dict(made.state_dict())}
    torch.save({**state, "epoch": 0}, "last.ckpt")
    from torch.distributed.checkpoint.state_dict_saver import save

    shutil.rmtree("shards", ignore_errors=True)
    save(state, checkpoint_id="shards", no_dist=True)
    return made


@pytest.mark.parametrize("ckpt", ["last.ckpt", "shards"])
@pytest.mark.parametrize("format", ["mmcomponents", "transformers"])
def test_adapters_are_merged(task: Any, ckpt: str, format: str) -> None:
    adapted = logits(task.model)
    assert main(["export", *RUN, ckpt, "--format", format, "--out", "out"]) == 0
    exported = read("out")
    torch.testing.assert_close(logits(exported.load()), adapted, rtol=1e-5, atol=1e-5)
    merge_adapters(task.model)
    for name, value in task.model.named_parameters():
        torch.testing.assert_close(exported.weights[name].load(), value.detach(), rtol=1e-6, atol=1e-6)
    base = RecipeCLI("generate", sort_flags(["--config", "r.yaml"]), MultimodalTask, PackedDataModule).model
    base.weights = "out"  # type: ignore[assignment]
    base.configure_model()
    base.model.image_token_id = task.model.image_token_id
    torch.testing.assert_close(logits(base.model), adapted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ckpt", ["last.ckpt", "shards"])
def test_quantised_weights_are_those_that_the_run_computed_with(task: Any, ckpt: str) -> None:
    slots = "{backbone: {quantization: nf4}, vision: {quantization: nf4}, projector: {trainable: false}}"
    Path("q.yaml").write_text(f"extends: a.yaml\nmodel: {{slots: {slots}}}\n")
    shutil.rmtree("shards")
    quantised = make_run("q.yaml")
    assert main(["export", "--config", "q.yaml", "--ckpt_path", ckpt, "--format", "transformers", "--out", "out"]) == 0
    torch.testing.assert_close(logits(read("out").load()), logits(quantised.model), rtol=1e-5, atol=1e-5)
    assert (logits(quantised.model) - logits(task.model)).abs().max() > 0.01


@pytest.mark.parametrize("quantization", ["nf4", "null"])
def test_weights_keep_their_data_type(task: Any, quantization: str) -> None:
    Path("q.yaml").write_text(f"extends: a.yaml\nmodel: {{slots: {{backbone: {{quantization: {quantization}}}}}}}\n")
    half = make_run("q.yaml").to(torch.bfloat16)
    torch.save({"state_dict": dict(half.state_dict())}, "half.ckpt")
    run = ["--config", "q.yaml", "--ckpt_path", "half.ckpt"]
    assert main(["export", *run, "--format", "mmcomponents", "--out", "out"]) == 0
    assert {value.dtype for file in Path("out").glob("*.safetensors") for value in load_file(file).values()} == {
        torch.bfloat16
    }
    adapted = logits(half.model)
    torch.testing.assert_close(logits(read("out").load()), adapted, rtol=0.1, atol=0.1)


def test_an_adapter_that_cannot_be_merged_is_one_line(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = "{class_path: peft.LoraConfig, init_args: {r: 4, lora_bias: true, target_modules: [o_proj]}}"
    Path("q.yaml").write_text(f"extends: r.yaml\nmodel: {{slots: {{backbone: {{adapter: {adapter}}}}}}}\n")
    torch.save({"state_dict": dict(make_run("q.yaml").state_dict())}, "bias.ckpt")
    run = ["--config", "q.yaml", "--ckpt_path", "bias.ckpt"]
    error = refused(capsys, "export", *run, "--format", "mmcomponents", "--out", "out")
    assert "o_proj cannot be merged: Impossible to merge LoRA with `lora_bias=True`" in error


def test_a_damaged_quantised_weight_is_refused(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("q.yaml").write_text("extends: a.yaml\nmodel: {slots: {backbone: {quantization: nf4}}}\n")
    state = {
        name: value for name, value in make_run("q.yaml").state_dict().items() if not name.endswith("k_proj.scales")
    }
    torch.save({"state_dict": state}, "without.ckpt")
    run = ["--config", "q.yaml", "--ckpt_path", "without.ckpt"]
    error = refused(capsys, "export", *run, "--format", "mmcomponents", "--out", "out")
    assert "the checkpoint has backbone.layers.0.self_attn.k_proj.codes and no backbone.layers.0" in error


def test_a_checkpoint_without_adapters_is_refused(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: value for name, value in task.state_dict().items() if ".lora_B" not in name}
    torch.save({"state_dict": state}, "without.ckpt")
    error = refused(capsys, "export", *RUN, "without.ckpt", "--format", "mmcomponents", "--out", "out")
    assert (
        "the recipe has adapters and the checkpoint has no backbone.layers.0.self_attn.q_proj.lora_B.default" in error
    )
    recipe = ["--config", "r.yaml", "--ckpt_path", "last.ckpt"]
    error = refused(capsys, "export", *recipe, "--format", "mmcomponents", "--out", "out")
    assert "the checkpoint has an adapter (vision.blocks.0.attn.qkv.base_layer.weight)" in error
    assert "no model.slots.vision.adapter" in error
    assert not Path("out").exists()


def test_an_unknown_module_in_a_recipe_is_refused(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    flag = ["--model.slots.backbone.adapter.init_args.target_modules", "[q_porj]"]
    error = refused(capsys, "plan", "--config", "a.yaml", *flag)
    assert "slots.backbone.adapter: DecoderLM has no modules q_porj (target_modules); did you mean q_proj" in error


def test_plan_counts_quantised_weights(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    def planned(*flags: str) -> Any:
        capsys.readouterr()
        trainer = ["--trainer.strategy", "auto", "--trainer.precision", "32-true"]
        assert main(["plan", "--config", "a.yaml", *trainer, "--json", "--tokens", "64", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    plain, quantised = planned(), planned("--model.slots.backbone.quantization", "nf4")
    for key in ("parameters", "trainable", "flops", "training_flops"):
        assert quantised[key] == plain[key]
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    saved = plain["memory"]["weights"] - quantised["memory"]["weights"]
    assert saved == linear * 4 - linear * (0.5 + 4 / 64)
    error = refused(capsys, "plan", "--config", "a.yaml", "--model.slots.backbone.quantization", "nf4")
    assert "slots.backbone.quantization: FSDP2Strategy shards parameters" in error
    error = refused(capsys, "plan", "--config", "a.yaml", "--model.slots.backbone.quantization", "nf5")
    assert "nf4" in error


def test_plan_counts_trained_parameters(task: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    capsys.readouterr()
    assert main(["plan", "--config", "a.yaml", "--json", "--tokens", "64"]) == 0
    found = json.loads(capsys.readouterr().out)
    trained = sum(p.numel() for p in task.model.backbone.parameters() if p.requires_grad)
    assert found["trainable"]["backbone"] == trained
    assert found["parameters"]["backbone"] > 10 * trained
    assert 2 < found["training_flops"]["backbone"] / found["flops"]["backbone"] < 2.2
