"""`mmcomponents import` and `export`: folders, runs, and error messages."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcomponents.checkpoints import read
from mmcomponents.cli.main import main
from mmcomponents.cli.models.run_weights import load_weights, model_weights
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.training import MultimodalTask

Write = Callable[[str, str], Path]

RECIPE = """
model:
  vocab_size: 300
  vision:
    class_path: InternViT
    init_args: {hidden_size: 24, num_layers: 2, num_heads: 3, intermediate_size: 40, image_size: 28, patch_size: 7}
  merger: {class_path: PixelUnshuffle, init_args: {rows: 2, columns: 2}}
  projector: {class_path: MLPProjector}
  embedder: {class_path: TokenEmbedder}
  position: {class_path: V2PE, init_args: {base: 10000.0}}
  backbone:
    class_path: DecoderLM
    init_args: {hidden_size: 32, num_layers: 2, num_heads: 4, num_kv_heads: 2, intermediate_size: 48}
  heads: {lm: {class_path: LMHead, init_args: {tied: true}}}
data: {tokenizer: tok, tokens_per_tile: 4, tile_size: 28, max_tiles: 5, normalization: clip, system: Be brief.}
"""
RUN = ["--config", "r.yaml", "--ckpt_path", "last.ckpt"]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Returns the error message of a command, which is one line."""
    capsys.readouterr()
    assert main(list(argv)) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("mmcomponents: ")]
    assert len(lines) == 1
    assert printed.err.splitlines()[-1] == lines[0]
    return lines[0]


def tensors(folder: str) -> dict[str, Tensor]:
    return {name: value for file in Path(folder).glob("*.safetensors") for name, value in load_file(file).items()}


def js(path: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(Path(path).read_text())
    return value


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultimodalTask]:
    """A folder with recipe, tokenizer and two kinds of checkpoints of a run, and its task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("run"))
        task = make_run()
    return folder, task


@pytest.fixture
def task(run_folder: tuple[Path, MultimodalTask], write: Write) -> MultimodalTask:
    """Copies the run to the working directory; returns a copy of its task."""
    folder, made = run_folder
    shutil.copytree(folder, Path(), dirs_exist_ok=True)
    return copy.deepcopy(made)


def make_run() -> MultimodalTask:
    Path("r.yaml").write_text(RECIPE)
    train_tokenizer(["Read the digits in order.", "3 7 1"] * 3, 300).save_pretrained("tok")
    made: Any = RecipeCLI("generate", sort_flags(["--config", "r.yaml"]), MultimodalTask, PackedDataModule).model
    assert isinstance(made, MultimodalTask)
    made.configure_model()
    state = {"state_dict": dict(made.state_dict())}
    torch.save({**state, "epoch": 0}, "last.ckpt")
    from torch.distributed.checkpoint.state_dict_saver import save

    save({**state, "optimizer_0": {"state": {"step": torch.ones(1)}}}, checkpoint_id="shards", no_dist=True)
    return made


@pytest.mark.parametrize("ckpt", ["last.ckpt", "shards"])
def test_a_run_is_exported_and_imported(ckpt: str, task: MultimodalTask, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--config", "r.yaml", "--ckpt_path", ckpt]
    assert main(["export", *run, "--format", "transformers", "--out", "hf", "--max_shard_size", "20KB"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    trained = dict(task.model.named_parameters())  # type: ignore[union-attr]
    count = sum(p.numel() for p in trained.values())
    shards = len(list(Path("hf").glob("*.safetensors")))
    assert shards > 1
    for words in ("written hf", "format transformers", f"parameters {count:,} in float32", f"in {shards} files"):
        assert words in printed
    assert "tokenizer.json" in printed
    assert "warning" not in printed
    assert main(["import", "hf", "--out", "ours"]) == 0
    back = tensors("ours")
    assert back.keys() == trained.keys()
    assert all(torch.equal(back[name], p) for name, p in trained.items())
    assert Path("ours/tokenizer.json").is_file()


def test_settings_of_the_recipe_are_exported(task: MultimodalTask) -> None:
    assert main(["export", *RUN, "--format", "mmcomponents", "--out", "ours", "--data.max_tiles", "7"]) == 0
    spec = read("ours").spec
    assert spec.processing.max_tiles == 7
    assert (spec.processing.tile_size, spec.processing.normalization, spec.processing.system) == (
        28,
        "clip",
        "Be brief.",
    )
    assert spec.parts["vision"]["class_path"] == "InternViT"
    assert spec.parts["vision"]["init_args"]["patch_size"] == 7
    assert spec.image_token_id == js("tok/tokenizer.json")["added_tokens"][5]["id"]
    assert "objective" not in spec.parts
    assert "optimizer" not in spec.parts
    loaded, trained = read("ours").load().state_dict(), task.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(loaded[name], value) for name, value in trained.items())


def test_losses_of_a_format_are_reported(task: MultimodalTask, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.position.delta", "0.25", "--data.thumbnail", "false"]
    capsys.readouterr()
    assert main(["export", *RUN, *flags, "--format", "transformers", "--out", "hf"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: positions: V2PE with delta 0.25 becomes RoPE, as transformers has no V2PE",
        "warning: images: transformers adds a thumbnail to several tiles; this model uses none",
    ]
    Path("hf/modeling_theirs.py").write_text("")
    assert main(["export", "hf", "--format", "official", "--out", "official"]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: code: the authors' Python files and their auto_map in config.json are not written; AutoModel with "
        "trust_remote_code needs both",
        "warning: code: Python files of hf are not copied: modeling_theirs.py",
    ]
    assert main(["export", *RUN, *flags, "--format", "mmcomponents", "--out", "ours"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_a_folder_is_replaced_only_with_overwrite(task: MultimodalTask, capsys: pytest.CaptureFixture[str]) -> None:
    to = ["--format", "official", "--out", "out"]
    Path("out").mkdir()
    assert main(["export", *RUN, *to]) == 0  # an empty folder is replaced
    assert "--overwrite replaces it" in refused(capsys, "export", *RUN, *to)
    Path("out/stale").write_text("")
    # A failed export leaves the old folder.
    other = ["--overwrite", "--model.backbone.num_layers", "3"]
    assert "lacks backbone.layers.2" in refused(capsys, "export", *RUN, *to, *other)
    assert Path("out/stale").exists()
    assert main(["export", *RUN, *to, "--overwrite"]) == 0
    assert not Path("out/stale").exists()
    assert {path.name for path in Path().glob("out*")} == {"out"}
    assert "contains the source" in refused(capsys, "import", "out", "--out", "out", "--overwrite")
    assert "no config.json" in refused(capsys, "import", "out", "--out", "tok", "--overwrite")
    assert "r.yaml exists and is not a folder" in refused(capsys, "import", "out", "--out", "r.yaml", "--overwrite")


R = ["--config", "r.yaml"]
OFFICIAL, TRANSFORMERS = (["--out", "o", "--format", name] for name in ("official", "transformers"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["export", "nowhere", *OFFICIAL], "export: no checkpoint folder nowhere"),
        (["import", "nowhere", "--out", "o"], "import: no checkpoint folder nowhere"),
        (["import", "tok", "--out", "o"], "no config.json in tok"),
        (["export", "x", "--format", "transformer", "--out", "o"], "'transformer'; did you mean 'transformers'?"),
        (["export", "x", "--out", "o"], "export: --format is missing; the formats are mmcomponents, official, "),
        (["export", "x", "--format", "official"], "export: the following arguments are required: --out"),
        (["export", *OFFICIAL], "export needs a folder, or --config RECIPE"),
        (["export", *R, *OFFICIAL], "--ckpt_path is missing"),
        (["export", *RUN, *OFFICIAL, "--overwrit", "1"], "did you mean '--overwrite'?"),
        (["export", "x", *RUN, *OFFICIAL], "cannot be combined with the folder x"),
        (["export", *R, "--ckpt_path", "lst.ckpt", *OFFICIAL], "no checkpoint 'lst.ckpt'; did you mean 'last.ckpt'?"),
        (["export", *R, "--ckpt_path", "tok", *OFFICIAL], "tok is not a checkpoint of a run"),
        (["export", *R, "--ckpt_path", "r.yaml", *OFFICIAL], "not a checkpoint of a run"),
        (["export", *RUN, "--format", "causal_lm", "--out", "o"], "has no images"),
        (["export", *RUN, *TRANSFORMERS, "--model.merger.order", "v1"], "export it as official"),
        (["export", *RUN, *OFFICIAL, "--model.backbone.num_layers", "3"], "lacks backbone.layers.2"),
        (["import", "x", "--out", "o", "--max_shard_size", "much"], "takes a size such as 5GB or 500MB, got 'much'"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], words: str, task: MultimodalTask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *argv)
    assert not Path("o").exists()


def test_weights_that_are_not_finite_are_converted_only_with_allow_nonfinite(
    task: MultimodalTask, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *RUN, "--format", "official", "--out", "official"]) == 0
    state = tensors("official")
    state["mlp1.1.weight"][0, :2] = float("nan")
    save_file(state, "official/model.safetensors", metadata={"format": "pt"})
    told = "projector.fc1.weight has 2 NaN"
    assert told in refused(capsys, "import", "official", "--out", "ours")
    assert told in refused(capsys, "generate", "official", "--prompt", "x")
    assert not Path("ours").exists()
    assert main(["import", "official", "--out", "ours", "--allow_nonfinite"]) == 0
    assert tensors("ours")["projector.fc1.weight"].isnan().sum() == 2
    assert main(["generate", "ours", "--prompt", "x", "--max_new_tokens", "1", "--allow_nonfinite"]) in (0, 2)
    assert told not in capsys.readouterr().err


def test_a_run_that_is_not_finite_is_exported_only_with_allow_nonfinite(
    task: MultimodalTask, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.no_grad():
        next(task.model.projector.parameters())[:2] = float("nan")  # type: ignore[union-attr]
    torch.save({"state_dict": dict(task.state_dict()), "epoch": 0}, "last.ckpt")
    export = ["export", *RUN, "--format", "mmcomponents", "--out", "ours"]
    assert "has 2 NaN in" in refused(capsys, *export)
    assert main([*export, "--allow_nonfinite"]) == 0
    assert sum(int(value.isnan().sum()) for value in tensors("ours").values()) == 2


def test_pickles_are_read_only_with_allow_pickle(task: MultimodalTask, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", *RUN, "--format", "official", "--out", "official"]) == 0
    state = tensors("official")
    torch.save(state, "official/pytorch_model.bin")
    Path("official/model.safetensors").unlink()
    assert "--allow_pickle" in refused(capsys, "import", "official", "--out", "ours")
    assert main(["import", "official", "--out", "ours", "--allow_pickle"]) == 0
    assert len(tensors("ours")) == len(state)


@pytest.mark.parametrize("ckpt", ["last.ckpt", "shards"])
def test_the_weights_of_a_task_are_restored(ckpt: str, task: MultimodalTask) -> None:
    kept = {name: value.clone() for name, value in task.state_dict().items()}
    assert task.model is not None
    assert model_weights(Path(ckpt)).keys() == {name.removeprefix("model.") for name in kept if "model." in name}
    task.model.init_weights(1)
    load_weights(task, Path(ckpt))
    assert all(torch.equal(kept[name], value) for name, value in task.state_dict().items())
