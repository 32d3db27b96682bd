from __future__ import annotations

import json
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
