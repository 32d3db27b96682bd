from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.files import INDEX, check_folder, read_json, read_weights, write_weights
from mmcomponents.checkpoints.rules import lazy


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn)
    state = {f"{kind}": torch.ones(3, 2).to(kind) for kind in kinds}
    write_weights(tmp_path, {name: lazy(value) for name, value in state.items()})
    found = read_weights(tmp_path)
    assert set(found) == set(state)
    for name, value in state.items():
        assert (found[name].meta.dtype, found[name].meta.shape) == (value.dtype, value.shape)
        assert found[name].meta.is_meta
        assert torch.equal(found[name].load().float(), value.float())


def test_a_tensor_that_is_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    state = {name: lazy(torch.ones(size)) for name, size in {"a": 10, "b": 100, "c": 10, "d": 10}.items()}
    write_weights(tmp_path, state, max_shard=100)
    table = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert [table[name][:11] for name in "abcd"] == ["model-00001", "model-00002", "model-00003", "model-00003"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is broken or not a safetensors file"),
        ("gone", "1 of 2 shards are missing"),
        ("outside", "names a shard outside of its folder: '../model.safetensors'"),
        ("no map", "has no weight_map"),
    ],
)
def test_damaged_shards_are_named(tmp_path: Path, damage: str, message: str) -> None:
    write_weights(tmp_path, {name: lazy(torch.ones(100)) for name in "ab"}, max_shard=500)
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    if damage == "cut":
        first.write_bytes(first.read_bytes()[:-10])
    elif damage == "gone":
        first.unlink()
    else:
        table = {"weight_map": {"a": "../model.safetensors"} if damage == "outside" else {}}
        (tmp_path / INDEX).write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path)


def test_pickles_are_refused_unless_asked_for(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles"):
        read_weights(tmp_path)
    assert torch.equal(read_weights(tmp_path, allow_pickle=True)["a"].load(), torch.ones(2))


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))


def test_a_pickle_that_would_run_code_is_refused_even_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a file of PyTorch weights"):
        read_weights(tmp_path, allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path, allow_pickle=True)["a"].load(), torch.ones(2))


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^no weights \(\*\.safetensors\)"):
        read_weights(tmp_path)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        read_json(tmp_path / "x.json")


def test_a_file_where_a_folder_belongs_is_told_what_to_do(tmp_path) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"last\.ckpt is a file, not a checkpoint folder; .*mmcomponents export"):
        check_folder(tmp_path / "last.ckpt")


def test_weights_that_are_not_finite_are_written_only_when_asked_for(tmp_path: Path) -> None:
    state = {"a": lazy(torch.tensor([1.0, float("inf")]))}
    with pytest.raises(CheckpointError, match="the weights: a has 1 Inf in 2 values"):
        write_weights(tmp_path, state)
    write_weights(tmp_path, state, allow_nonfinite=True)
    assert read_weights(tmp_path)["a"].load().isinf().any()


@pytest.mark.parametrize("name", ["model.safetensors", "model-1.safetensors", "pytorch_model.bin", INDEX])
def test_files_that_are_no_files_are_not_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} is a pipe or a device"):
        read_weights(folder, allow_pickle=True)


def test_weights_may_be_linked_and_text_may_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_weights(tmp_path, {"a": lazy(torch.ones(3))})
    (folder / "model.safetensors").symlink_to("../model.safetensors")
    assert read_weights(folder)["a"].load().tolist() == [1, 1, 1]
    (tmp_path / "secret").write_text('{"weight_map": {"a": "model.safetensors"}}')
    (folder / INDEX).symlink_to("../secret")
    with pytest.raises(CheckpointError, match=rf"{INDEX} is a link to a file outside of the folder"):
        read_weights(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("size", [0, 5, 200])
def test_files_that_are_cut_are_told(tmp_path: Path, name: str, size: int) -> None:
    if name.endswith("bin"):
        torch.save({"a": torch.ones(100)}, tmp_path / name)
    else:
        write_weights(tmp_path, {"a": lazy(torch.ones(100))})
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"is broken or not a safetensors|is not a file of PyTorch") as caught:
        read_weights(tmp_path, allow_pickle=True)
    assert "\n" not in str(caught.value)
