"""Checkpoints without the frozen weights that a folder has: resumed, loaded, exported, refused without the folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mmcomponents
from mmcomponents.checkpoints import CheckpointError, InitialWeights
from mmcomponents.checkpoints.runs.frozen_weights import KEY, FrozenWeights
from mmcomponents.checkpoints.runs.saved_weights import saved_contents, saved_state
from mmcomponents.cli.main import main
from mmcomponents.demos.handwriting.builder import make_handwriting

FROZEN = "{vision: {trainable: false}, embedder: {trainable: false}}"
LORA = "{backbone: {adapter: {class_path: peft.LoraConfig, init_args: {r: 2, target_modules: [q_proj]}}}}"
RUNS = {
    "frozen": ["--model.slots", FROZEN],
    "lora": ["--model.slots", LORA],
    "shards": ["--model.slots", FROZEN, "--trainer.strategy", "fsdp2"],
    "parts": ["--model.slots", FROZEN, "--model.weights", "{vision: base, backbone: base}"],
}
LAST = "checkpoints/last.ckpt"


def fit(name: str, steps: int, *flags: str) -> int:
    short = ["--trainer.limit_val_batches", "0", "--model.scheduler.total_steps", "4"]
    return main(["fit", "--config", "quickstart", "--trainer.default_root_dir", name, "--trainer.max_steps", str(steps),
                 *short, *flags])  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, and with runs that start from it with frozen slots."""
    folder = tmp_path_factory.mktemp("runs")
    make_handwriting(folder / "data" / "handwriting", scenes=60, held_out=4, val_scenes=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert fit("first", 1) == 0
        run = ["--config", "first/recipe.yaml", "--ckpt_path", f"first/{LAST}"]
        assert main(["export", *run, "--format", "mmcomponents", "--out", "base"]) == 0
        for name, flags in RUNS.items():
            assert fit(name, 2, "--model.weights", "base", *flags) == 0
    yield folder
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runs in a folder of their own, which a test may change: the recorded path is another one."""
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return Path()


def left_out(name: str) -> set[str]:
    """Returns what a checkpoint leaves out, which is not in it."""
    names = set(saved_contents(Path(name) / LAST)[KEY]["names"])
    stored = saved_state(Path(name) / LAST)
    assert not names & {key.removeprefix("model.") for key in stored}
    return names


def test_frozen_weights_of_a_folder_are_left_out(runs: Path) -> None:
    for name in ("frozen", "shards"):
        assert {key.partition(".")[0] for key in left_out(name)} == {"vision", "embedder"}, name
    assert "vision.patch_embedding.weight" in left_out("frozen")
    assert "backbone.layers.0.self_attn.q_proj.base_layer.weight" in left_out("lora"), "adapters are trained alone"
    assert {key.partition(".")[0] for key in left_out("lora")} == {"backbone"}
    assert {key.partition(".")[0] for key in left_out("parts")} == {"vision"}, "no folder has the others"
    assert KEY not in saved_contents(Path("first") / LAST)


@pytest.mark.parametrize("name", ["lora", "shards"])
def test_a_run_is_loaded_exported_and_resumed(runs: Path, name: str) -> None:
    base, found = mmcomponents.load("base"), mmcomponents.load(Path(name))
    part = "vision.patch_embedding" if name == "shards" else "backbone.layers.0.self_attn.k_proj"
    assert torch.equal(found.get_parameter(f"{part}.weight"), base.get_parameter(f"{part}.weight"))
    assert not torch.equal(found.projector.fc1.weight, base.projector.fc1.weight)
    run = ["--config", f"{name}/recipe.yaml", "--ckpt_path", f"{name}/{LAST}"]
    assert main(["export", *run, "--format", "mmcomponents", "--out", "out"]) == 0
    for key, value in mmcomponents.load("out").state_dict().items():
        torch.testing.assert_close(value, found.state_dict()[key], rtol=1e-6, atol=1e-6)
    flags = ["--model.weights", "base", *RUNS[name]]
    assert fit(f"{name}-whole", 4, *flags) == 0
    assert fit(name, 4, *flags, "--ckpt_path", f"{name}/{LAST}") == 0
    whole, resumed = mmcomponents.load(f"{name}-whole").state_dict(), mmcomponents.load(name).state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
    assert left_out(name) == left_out(f"{name}-whole"), "also after a resume"


def test_weights_that_change_stay_in_the_checkpoint(runs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """PiSSA changes the weight that its adapter starts from; a folder may change while a run trains."""
    pissa = LORA.replace("{r: 2,", "{r: 2, init_lora_weights: pissa,")
    assert fit("pissa", 2, "--model.weights", "base", "--model.slots", pissa) == 0
    names = left_out("pissa")
    assert "backbone.layers.0.self_attn.q_proj.base_layer.weight" not in names
    assert "backbone.layers.0.self_attn.k_proj.weight" in names
    model = mmcomponents.load("base").requires_grad_(False)
    next(iter(model.projector.parameters())).requires_grad_(True)
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    frozen = FrozenWeights.of_run(model, InitialWeights(model, "base"), "base")
    assert frozen is not None
    assert frozen.names == names
    checkpoint: dict[str, Any] = {"state_dict": {f"model.{name}": p for name, p in model.named_parameters()}}
    Path("base/model.safetensors").touch()
    frozen.leave_out(model, checkpoint)
    assert len(checkpoint["state_dict"]) == len(names) + 1, "all are kept"
    assert KEY not in checkpoint
    assert "base/model.safetensors has changed" in caplog.text


def test_a_folder_that_moved_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = saved_contents(Path("frozen") / LAST)
    (recorded,) = contents[KEY]["digests"]
    contents[KEY]["folders"] = recorded = recorded.replace("base", "gone")
    contents[KEY]["digests"] = {recorded: next(iter(contents[KEY]["digests"].values()))}
    torch.save(contents, "new.ckpt")  # the contents are read from the old file, which must stay until then
    Path("new.ckpt").replace(Path("frozen") / LAST)
    wanted = rf"leaves out the frozen weights of embedder, vision, which its run loaded from {re.escape(recorded)}: .*"
    with pytest.raises(CheckpointError, match=wanted + "model.safetensors is missing"):
        mmcomponents.load("frozen")
    run = ["--config", "frozen/recipe.yaml", "--ckpt_path", f"frozen/{LAST}"]
    assert main(["export", *run, "--format", "mmcomponents", "--out", "out"]) == 0, "model.weights of the recipe has it"
    assert main(["export", *run, "--format", "mmcomponents", "--out", "no", "--model.weights", "nowhere"]) == 2
    assert "nowhere/model.safetensors is missing" in " ".join(capsys.readouterr().err.split())
    assert fit("frozen", 3, *RUNS["frozen"], "--model.weights", "base", "--ckpt_path", f"frozen/{LAST}") == 0


def test_a_folder_that_changed_is_refused(runs: Path) -> None:
    contents = saved_contents(Path("frozen") / LAST)
    folder = str(Path("base").resolve())
    recorded = contents[KEY] | {"folders": folder, "digests": {folder: contents[KEY]["digests"].popitem()[1]}}
    assert FrozenWeights.find({KEY: recorded}) is not None
    file = Path("base/model.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"base/model.safetensors has changed since"):
        FrozenWeights.find({KEY: recorded})
    for damaged in (recorded | {"names": 3}, recorded | {"digests": [1]}, {}):
        with pytest.raises(CheckpointError, match="the checkpoint's entry 'frozen_weights' is damaged"):
            FrozenWeights.find({KEY: damaged})


def save_as_rank(rank: int, folder: str, run: str) -> Any:
    flags = ["--trainer.devices", "2", "--trainer.strategy", "fsdp2", "--model.slots", FROZEN]
    data = [f"--data.{part}={folder}/data/handwriting/{part}-*.tar" for part in ("train", "val", "test")]
    data.append(f"--data.tokenizer={folder}/data/handwriting/tokenizer")
    assert fit(run, 2, "--model.weights", f"{folder}/base", *flags, *data) == 0
    assert fit(run, 4, "--model.weights", f"{folder}/base", *flags, *data, "--ckpt_path", f"{run}/{LAST}") == 0


def test_two_ranks_leave_them_out_together(two_ranks: Any, made: Path, tmp_path: Path) -> None:
    two_ranks.run(save_as_rank, str(made), str(tmp_path / "run"))
    assert {key.partition(".")[0] for key in left_out(str(tmp_path / "run"))} == {"vision", "embedder"}
    base, found = mmcomponents.load(made / "base"), mmcomponents.load(tmp_path / "run")
    assert torch.equal(found.vision.patch_embedding.weight, base.vision.patch_embedding.weight)
