"""Models of the hub by name, from a cache on the local disk and without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

import mmcomponents
from checkpoints_models import STYLES, hf_model
from mmcomponents.backbones import TransformersLM
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.storage.hub import HubError, is_hub_name, local_folder

COMMIT, OLD = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two revisions of the model `maker/tiny`; the working folder is empty."""
    repository = tmp_path / "hub" / "models--maker--tiny"
    for commit in (COMMIT, OLD):
        hf_model(*STYLES[0]).save_pretrained(repository / "snapshots" / commit)
        train_tokenizer(["a b c"], 300).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return repository / "snapshots"


def test_a_name_is_a_model_of_the_cache(cache: Path) -> None:
    assert local_folder("maker/tiny") == cache / COMMIT
    assert local_folder("maker/tiny@v1") == cache / OLD
    assert local_folder(f"maker/tiny@{OLD}") == cache / OLD


def test_folders_of_the_disk_come_first(cache: Path) -> None:
    assert not is_hub_name("runs")
    assert not is_hub_name("/maker/tiny")
    assert not is_hub_name("a/b/c")
    assert not is_hub_name("./maker/tiny")
    assert is_hub_name("maker/tiny")
    Path("maker").mkdir()
    assert not is_hub_name("maker/tiny")  # a misspelt folder beside others
    assert local_folder("maker/tiny") == Path("maker/tiny")


def test_models_tokenizers_and_first_weights_are_found_by_name(cache: Path) -> None:
    model, expected = mmcomponents.load("maker/tiny"), mmcomponents.load(cache / COMMIT)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert len(load_tokenizer("maker/tiny")) == len(load_tokenizer(cache / COMMIT))
    started = mmcomponents.load(cache / OLD)
    with torch.no_grad():
        for parameter in started.parameters():
            parameter.zero_()
    load_initial(started, "maker/tiny")
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in started.state_dict().items())
    load_initial(started, {"vision": "maker/tiny@v1"})


def test_commands_take_names(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "maker/tiny", "--out", "ours"]) == 0
    assert main(["export", "maker/tiny", "--format", "mmcomponents", "--out", "again"]) == 0
    for folder in ("ours", "again"):
        assert (Path(folder) / "tokenizer.json").exists()
    assert main(["generate", "maker/none", "--prompt", "x"]) == 2
    assert "there is no folder maker/none, and the model of the hub of this name is not in the cache" in (
        capsys.readouterr().err
    )


def test_a_configuration_is_named_by_the_model(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, commit in (("maker/tiny", COMMIT), ("maker/tiny@v1", OLD)):
        wanted = TransformersLM(str(cache / commit / "config.json"))
        assert TransformersLM(name).body.config.to_dict() == wanted.body.config.to_dict()
    with pytest.raises(ValueError, match=r"hf download maker/none config.json --revision v2$"):
        TransformersLM("maker/none@v2")
    backbone = "{class_path: TransformersLM, init_args: {config: maker/NAME}}"
    plan = ["plan", "--config", "quickstart", "--model.position", "null", "--model.backbone"]
    assert main([*plan, backbone.replace("NAME", "tiny")]) == 0
    assert f"{wanted.hidden_size}" in capsys.readouterr().out
    assert main([*plan, backbone.replace("NAME", "none")]) == 2
    assert (
        "model.backbone.init_args.config (the command line): there is no folder maker/none" in capsys.readouterr().err
    )


def test_what_is_missing_is_told_in_one_line(cache: Path) -> None:
    with pytest.raises(HubError, match="there is no folder maker/none, and the model of the hub"):
        local_folder("maker/none")
    with pytest.raises(CheckpointError, match="there is no folder maker/none, and the model of the hub"):
        mmcomponents.load("maker/none")
    with pytest.raises(DataError, match="tokenizer: there is no folder maker/none"):
        load_tokenizer("maker/none")
    with pytest.raises(HubError, match="maker/tiny@v9"):
        local_folder("maker/tiny@v9")
    for file in (cache / OLD).glob("*.safetensors"):
        file.unlink()
    load_tokenizer("maker/tiny@v1")
    with pytest.raises(CheckpointError, match="the model maker/tiny@v1 of the hub has no weights as safetensors"):
        mmcomponents.load("maker/tiny@v1")
    shutil.rmtree(cache / OLD)
    with pytest.raises(HubError):
        local_folder("maker/tiny@v1")


def test_only_inert_files_are_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(cache / COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    local_folder("maker/other")
    local_folder("maker/other", weights=False)
    assert "*.safetensors" in asked[0]
    assert "*.safetensors" not in asked[1]
    for patterns in asked:
        assert not {"*", "*.py", "*.bin", "*.pt", "*.pth", "*.ckpt"} & {*patterns}


def test_a_checkpoint_records_the_folder_of_the_snapshot(cache: Path) -> None:
    from mmcomponents.checkpoints.runs.frozen_weights import _absolute

    assert _absolute("maker/tiny") == str((cache / COMMIT).resolve())
    assert _absolute({"vision": "maker/tiny@v1"}) == {"vision": str((cache / OLD).resolve())}
