from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.cli.main import main
from mmcomponents.component import Component
from mmcomponents.training.memory.verdict import Verdict

Write = Callable[[str, str], Path]

FINETUNE = "--config internvl3/1b-finetune"
SMALL = f"{FINETUNE} --model.backbone.num_layers 3 --model.vision.num_layers 3"
"""Layers are alike: three take as long to run as a test should."""

STRATEGY = "--trainer.strategy.init_args"

NOTHING_AGAIN = {"vision": "none", "backbone": "none"}

SIX = ("vision", "projector", "embedder", "backbone", "head", "total")


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["plan", *argv, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found: dict[str, Any] = json.loads(printed.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["plan", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.slow
def test_the_largest_model_is_counted_without_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(*_: object) -> None:
        raise AssertionError("a weight was drawn")

    monkeypatch.setattr(Component, "init_parameter", draw)
    found = planned(capsys, "--config", "internvl3/78b", "--devices", "64")
    assert {slot: found["parameters"][slot] for slot in SIX} == {
        "vision": 5_536_496_000,
        "projector": 172_008_448,
        "embedder": 1_242_513_408,
        "backbone": 71_457_300_480 - 1_242_513_408,
        "head": 1_242_513_408,
        "total": 78_408_318_336,
    }
    assert found["trainable"] == found["parameters"]
    memory = found["memory"]
    assert memory["devices"] == 64
    # 4 bytes for weights and gradients, 8 for AdamW. Parameters that cannot be split into 64, such as the encoder's
    # position embedding `[1, 1025, 3200]`, add less than 0.3 %.
    for name, each in (("weights", 4), ("gradients", 4), ("optimizer", 8)):
        assert 1 < memory[name] / (78_408_318_336 * each / 64) < 1.003
    terms = ("weights", "gradients", "optimizer", "gathered", "activations", "temporary")
    assert memory["total"] == sum(memory[name] for name in terms)
    assert memory["activations"] == found["activations"]["none"]["total"]
    # 2 FLOPs per weight and token, and attention over the pack: 4 * width of all heads * T^2 / 2 per layer.
    layers = 80 * (8192 * (2 * 8192 + 2 * 1024) + 3 * 8192 * 29568)
    assert found["flops"]["backbone"] == 2 * 16384 * layers + 80 * 2 * 16384**2 * 8192
    assert found["pack"] == {"tokens": 16384, "tiles": 48, "visual_tokens": 12288, "targets": 4096, "segments": 1}
    assert found["flops"]["head"] == 2 * 4096 * 8192 * 151674
    assert found["training_flops"]["backbone"] == 3 * found["flops"]["backbone"]


def test_bytes_and_flops_are_those_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *SMALL.split(), "--devices", "8", "--model.slots.vision.trainable", "true")
    total = found["parameters"]["total"]
    for name, each in (("weights", 4), ("gradients", 4), ("optimizer", 8)):
        assert 1 < found["memory"][name] / (total * each / 8) < 1.03  # embeddings of places are not split
    layers = 3 * (896 * (2 * 896 + 2 * 128) + 3 * 896 * 4864)
    tokens = found["pack"]["tokens"]
    assert found["flops"]["backbone"] == 2 * tokens * layers + 3 * 2 * tokens**2 * 896


def test_a_flag_swaps_a_part_and_freezes_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.projector", "LinearProjector", "--model.slots.vision.trainable", "false", "--tiles", "2"]
    found = planned(capsys, "--config", "internvl3/1b", *flags, "--tokens", "1000")
    assert found["parts"]["projector"] == "LinearProjector"
    assert found["parameters"]["projector"] == 4096 * 896 + 896
    assert found["trainable"]["vision"] == 0
    assert found["trainable"]["total"] == found["parameters"]["total"] - 304_012_288
    assert found["memory"]["gradients"] == 4 * found["trainable"]["total"]
    assert found["activations"]["none"]["vision"] == 0
    assert found["memory"]["weights"] == 4 * found["parameters"]["total"]
    assert found["training_flops"]["vision"] == found["flops"]["vision"]
    assert found["pack"]["targets"] == 1000 - 512


def test_a_training_recipe_needs_no_data_and_builds_no_trainer(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("a trainer was built")

    monkeypatch.setattr("mmcomponents.cli.recipes.recipe_cli.RecipeCLI.instantiate_trainer", build)
    write("mine.yaml", "extends: quickstart\ndata: {tokenizer: nowhere}\n")
    found = planned(capsys, "--config", "mine.yaml")
    assert found["parameters"]["head"] == 0  # tied: the embedder has it
    assert found["flops"]["head"] > 0
    assert found["parameters"]["total"] == sum(n for slot, n in found["parameters"].items() if slot != "total")


def test_without_json_it_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    total = planned(capsys, *SMALL.split(), "--devices", "2")["parameters"]["total"]
    assert main(["plan", *SMALL.split(), "--devices", "2"]) == 0
    out = capsys.readouterr().out
    assert "InternViT" in out
    assert f"{total:,}" in out
    assert "On 2 devices" in out
    assert "Not counted: the batch" in out
    assert "fits 80 GB on 2 devices" in out


def test_help_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--help"]) == 0
    assert "--devices" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "\n  plan " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--config internvl3/1b --devices 0", "--devices: takes a whole number of at least 1, got '0'"),
        ("--config internvl3/1b --tokens -5", "--tokens: takes a whole number of at least 1, got '-5'"),
        ("--config internvl3/1b --tiles few", "--tiles: takes a whole number, got 'few'"),
        ("--config internvl3/1b --tiles 65", "65 tiles become 16640 tokens, more than the 16384 of the pack"),
        ("--config internvl3/1c", "there is no recipe 'internvl3/1c'; did you mean 'internvl3/1b'?"),
        ("--config internvl3/1b --device 2", "no option --device; did you mean 'devices'?"),
        ("--config internvl3/1b --model.projektor X", "unknown key model.projektor (the command line); did you mean"),
        ("--config internvl3/1b --trainer.devces 2", "unknown key trainer.devces (the command line); did you mean"),
        ("--config internvl3/1b --model.slots.visio.lr 1e-3", "slots.visio: the model has no such slot"),
        ("--config internvl3/1b --json 3", "'3' is not a flag"),
        (f"{FINETUNE} {STRATEGY}.compute_dtype bfloat16", "compute_dtype 'bfloat16' is not one of bf16, fp16, fp32"),
        (
            f"{FINETUNE} {STRATEGY}.replicate 0",
            "trainer.strategy.replicate must be a whole number of at least 1",
        ),
        (
            f"{FINETUNE} --trainer.accumulate_grad_batches x",
            "trainer.accumulate_grad_batches must be a whole number",
        ),
        (f"{FINETUNE} --trainer.devices x", "trainer.devices must be a whole number of at least 1, got 'x'"),
        (f"{FINETUNE} --trainer.precision foo", "trainer.precision 'foo' is not one of 32-true, bf16-mixed"),
        ("--config quickstart --model.optimizer torch.optim.LBFGS", "LBFGS cannot be counted"),
        ("--config quickstart --data.packing.tokens null", "data.packing.tokens must be int, not None"),
        ("--config quickstart --data.packing.foo 3", "unexpected keyword argument 'foo'"),
        ("--config quickstart --data.packing 5", "data.packing holds settings, a mapping, not '5'"),
        ("--config quickstart --tokens 99999999999", "a pack of 99,999,999,999 tokens is more than the 100,000,000"),
        ("--config internvl3/1b --memory much", "--memory: takes an amount of memory such as 80GB, got 'much'"),
        ("--config internvl3/1b --memory 0GB", "--memory: takes an amount of memory such as 80GB, got '0GB'"),
        (f"{FINETUNE} {STRATEGY}.activation_checkpointing some", "activation_checkpointing"),
        (
            "--config quickstart --model.slots.fuser.activation_checkpointing full",
            "slots.fuser: the model has no such slot",
        ),
        (
            "--config quickstart --model.slots.projector.activation_checkpointing full",
            "slots.projector.activation_checkpointing: MLPProjector declares no units (shard_units)",
        ),
        ("", "plan needs --config RECIPE; `mmcomponents recipes` lists"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    assert message in refused(capsys, *argv.split())


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--model.backbone.num_layers", "10000000"),
        ("--model.backbone.num_heads", "-1"),
        ("--model.vision.patch_size", "0"),
        ("--model.vision.image_size", "100000000000"),
        ("--model.vocab_size", "-5"),
        ("--model.merger.rows", "0"),
        ("--model.backbone.eps", ".nan"),
        ("--model.backbone.hidden_size", "2.5"),
    ],
)
@pytest.mark.usefixtures("few_modules")
def test_sizes_out_of_range_are_refused_before_a_model_is_built(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert flag.rpartition(".")[2] in refused(capsys, "--config", "quickstart", flag, value)


def test_the_run_is_that_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *SMALL.split())
    assert found["memory"]["devices"] == 8
    assert found["memory"]["for"] == "fsdp2, fp32 weights, bf16 computation"
    quickstart = planned(capsys, "--config", "quickstart")
    assert quickstart["memory"]["for"] == "no sharding, fp32 weights, fp32 computation"
    assert quickstart["pack"]["tokens"] == 1536
    other = planned(capsys, "--config", "quickstart", "--data.packing.tokens", "512", "--data.pack_tiles", "3")
    assert (other["pack"]["tokens"], other["pack"]["tiles"]) == (512, 3)


def test_settings_of_slots_and_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"{STRATEGY}.activation_checkpointing", "full", "--model.slots.vision.activation_checkpointing", "none"]
    found = planned(capsys, *SMALL.split(), *flags, "--model.slots.vision.trainable", "true")
    memory, activations = found["memory"], found["activations"]
    assert memory["checkpointing"] == {"vision": "none", "backbone": "full"}
    expected = activations["full"]["total"] - activations["full"]["vision"] + activations["none"]["vision"]
    assert memory["activations"] == expected
    assert found["training_flops"]["vision"] == pytest.approx(3 * found["flops"]["vision"], rel=1e-2)
    assert found["training_flops"]["backbone"] > 3 * found["flops"]["backbone"]


def test_the_verdict_names_the_setting_that_computes_least_again(capsys: pytest.CaptureFixture[str]) -> None:
    (verdict,) = planned(capsys, *FINETUNE.split(), "--devices", "1", "--memory", "80GB")["verdicts"]
    assert verdict == {"capacity": 80 * 2**30, "fits": True, "cheapest": NOTHING_AGAIN, "devices": 1}
    (verdict,) = planned(capsys, *FINETUNE.split(), "--devices", "1", "--memory", "24GB")["verdicts"]
    assert verdict["fits"] is False
    assert verdict["cheapest"] == {"vision": "none", "backbone": "selective"}


def test_no_device_holds_the_pack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *SMALL.split(), "--memory", "1GB"]) == 0
    out = capsys.readouterr().out
    assert "does not fit 1 GB on 8 devices with any activation checkpointing, nor on more devices" in out


@pytest.mark.parametrize(
    ("argv", "devices", "how"),
    [
        ("--trainer.num_nodes 4", 32, "fsdp2, fp32 weights, bf16 computation"),
        ("--trainer.devices 0,1", 2, "fsdp2, fp32 weights, bf16 computation"),
        ("--trainer.devices auto", 1, "fsdp2, fp32 weights, bf16 computation"),
        ("--trainer.precision bf16-true", 8, "fsdp2, bf16 weights, bf16 computation"),
        (
            "--trainer.strategy ddp --trainer.precision bf16",
            8,
            "no sharding, fp32 weights, bf16 computation by",
        ),
        ("--trainer.strategy deepspeed", 8, "no sharding, fp32 weights, fp32 computation"),
    ],
)
def test_the_trainer_is_read_as_lightning_reads_it(
    argv: str, devices: int, how: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmcomponents.cli.runs.plan_run.verdict", lambda *_: Verdict(0, True, None, None))
    assert main(["plan", *SMALL.split(), "--tokens", "512", "--tiles", "1", *argv.split(), "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["devices"] == devices
    assert memory["for"].startswith(how)


def test_the_settings_of_an_own_data_class_are_not_those_of_a_pack(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("own.yaml", "extends: quickstart\ndata: {class_path: my_package.MyData, init_args: {packing: {rows: 3}}}\n")
    assert planned(capsys, "--config", "own.yaml")["pack"]["tokens"] == 16384


def test_tiles_of_data_and_model_differ_as_in_fit(capsys: pytest.CaptureFixture[str]) -> None:
    merger = "{class_path: QFormer, init_args: {num_queries: 32, num_layers: 1, num_heads: 4}}"
    assert main(["plan", "--config", "quickstart", "--model.merger", merger]) == 2
    said = capsys.readouterr().err
    assert "produce 32 visual tokens per tile, the data's tokens_per_tile is 4: set data.tokens_per_tile to 32" in said
    assert main(["plan", "--config", "quickstart", "--data.images.tile_size", "56"]) == 2
    assert "tile_size is 56: set data.images.tile_size to 28" in capsys.readouterr().err
