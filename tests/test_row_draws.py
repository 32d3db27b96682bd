"""First values of large weights: a function of the key and the place, and no more of them than a rank keeps."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mmcomponents
import tiny
from checkpoints_models import hf_model
from mmcomponents import row_draws
from mmcomponents.checkpoints import CheckpointError, InitialWeights, convert, files
from mmcomponents.checkpoints import read as read_folder
from mmcomponents.checkpoints.checkpoint import meta_model
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.component import Component
from mmcomponents.testing import Ranks
from mmcomponents.training.distributed.sharding import cast_parameters, materialize, shard_model


class Draws(TorchDispatchMode):
    """Counts the values that are drawn while the mode is active."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default):
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


def test_blocks_are_drawn_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_draws, "BLOCK", 24)
    whole = torch.zeros(11, 8)
    assert row_draws.draw_rows(whole, 0.5, "key")
    assert whole.std().item() == pytest.approx(0.5, rel=0.3)
    for number in range(4):
        block = torch.empty(3, 8)[: 3 if number < 3 else 2]
        block.normal_(0.0, 0.5, generator=row_draws.generator_of(f"key/{number}"))
        assert torch.equal(whole[3 * number : 3 * number + 3], block)
    assert not row_draws.draw_rows(torch.zeros(3, 8), 0.5, "key"), "not larger than a block"


def test_a_parameter_of_a_block_is_drawn_as_before() -> None:
    """The values of models whose matrices have up to 2**20 values are those of earlier versions."""
    part, other = tiny.model().backbone, tiny.model().backbone
    assert part is not None
    assert other is not None
    part.init_weights(3, "backbone")
    name, parameter = next((n, p) for n, p in part.named_parameters() if p.ndim == 2)
    value = torch.empty(parameter.shape)
    other.init_parameter(name, value, row_draws.generator_of(f"3/backbone/{name}"))
    assert torch.equal(parameter, value)


class Zeros(Component):
    """Fills its matrix in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, 8))
        self.init_weights()

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        value.zero_()


class Owner(Component):
    """Has such a part and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.linear = Zeros(), nn.Linear(8, 8, bias=False)
        self.init_weights()


def test_a_class_that_fills_its_parameters_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_draws, "BLOCK", 8)
    owner = Owner()
    assert not owner.inner.weight.any()
    assert owner.linear.weight.std() > 0

    class Ones(type(tiny.model().vision)):  # type: ignore[misc]
        """Inherits `init_std` of InternViT, and fills its parameters in another way."""

        def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
            value.fill_(1.0)

    assert Ones._declared_std(tiny.model().vision, "blocks.0.mlp.fc1.weight", torch.Size([4, 4])) == 0.5
    part = tiny.model().vision
    part.__class__ = Ones
    assert part._declared_std("blocks.0.mlp.fc1.weight", torch.Size([4, 4])) is None


def mesh() -> Any:
    world = int(os.environ["WORLD_SIZE"])
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=world)
    return init_device_mesh("cpu", (world,))


def draw_as_rank(rank: int) -> tuple[Tensor, int, int, Tensor]:
    """Returns a sharded draw gathered, the values drawn, those kept, and a replicated draw."""
    row_draws.BLOCK = 24
    try:
        sharded = distribute_tensor(torch.zeros(11, 8), mesh(), [Shard(0)])
        with Draws() as draws:
            assert row_draws.draw_rows(sharded, 0.5, "key")
        replicated = distribute_tensor(torch.zeros(11, 8), mesh(), [Replicate()])
        assert row_draws.draw_rows(replicated, 0.5, "key")
        columns = distribute_tensor(torch.zeros(11, 8), mesh(), [Shard(1)])
        assert not row_draws.draw_rows(columns, 0.5, "key")
        return sharded.full_tensor(), draws.count, sharded.to_local().numel(), replicated.to_local()
    finally:
        row_draws.BLOCK = 2**20


def test_ranks_draw_their_own_rows(two_ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    found = two_ranks.run(draw_as_rank)
    monkeypatch.setattr(row_draws, "BLOCK", 24)
    plain = torch.zeros(11, 8)
    row_draws.draw_rows(plain, 0.5, "key")
    for whole, drawn, kept, replicated in found:
        assert torch.equal(whole, plain)
        assert torch.equal(replicated, plain)
        assert drawn <= kept + 24, "its rows, and the rest of a block"


def load_as_rank(rank: int, folder: str) -> dict[str, Any]:
    """Builds a sharded model from a folder; returns its weights and what was drawn and read."""
    counts = {"bytes": 0}

    def count(function: Any) -> Any:
        def counted(*arguments: Any) -> Tensor:
            value = function(*arguments)
            counts["bytes"] += value.numel() * value.element_size()
            return value

        return counted

    kept = files._read, files._read_rows
    files._read, files._read_rows = count(kept[0]), count(kept[1])
    try:
        model, shard_mesh = read_folder(folder).build(), mesh()
        weights = InitialWeights(model, folder)
        shard_model(model, shard_mesh)
        with Draws() as draws:
            materialize(model, torch.device("cpu"), 0, weights.given)
            drawn = draws.count
            weights.load(model)
        own = sum(p.to_local().numel() * 4 for p in model.parameters())  # type: ignore[attr-defined]
        largest = max(p.numel() * 4 for p in model.parameters())
        values = {name: p.full_tensor() for name, p in model.named_parameters()}  # type: ignore[attr-defined]
        return {"drawn": drawn, "read": counts["bytes"], "own": own, "largest": largest, "values": values}
    finally:
        files._read, files._read_rows = kept


@pytest.mark.parametrize("text", ["qwen2", "llama"])
def test_with_a_folder_of_all_weights_nothing_is_drawn_and_a_rank_reads_its_own(
    two_ranks: Ranks, tmp_path: Path, text: str
) -> None:
    hf_model("300m", text, tied=False).save_pretrained(tmp_path)
    expected = dict(mmcomponents.load(tmp_path).named_parameters())
    for found in two_ranks.run(load_as_rank, str(tmp_path)):
        assert found["drawn"] == 0
        assert found["own"] <= found["read"] <= found["own"] + found["largest"]
        assert found["values"].keys() == expected.keys()
        for name, value in found["values"].items():
            assert torch.equal(value, expected[name]), name


def test_our_own_files_are_read_in_pieces_and_compared_with_their_checksums(two_ranks: Ranks, tmp_path: Path) -> None:
    hf_model("300m", "qwen2", tied=False).save_pretrained(tmp_path / "hf")
    folder = tmp_path / "ours"
    convert(read_folder(tmp_path / "hf"), folder, "mmcomponents")
    for found in two_ranks.run(load_as_rank, str(folder)):
        assert found["drawn"] == 0
        assert found["own"] <= found["read"] <= found["own"] + found["largest"]
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    with safe_open(file, framework="pt") as opened:
        name = max(opened.keys(), key=lambda key: math.prod(opened.get_slice(key).get_shape()))
    length = int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8 : 8 + length])[name]["data_offsets"]
    for place in (first + 1, end - 2):  # in the rows of one rank, and of the other
        data[8 + length + place] ^= 1
        file.write_bytes(data)
        for error in two_ranks.run(error_as_rank, str(folder)):
            assert f"is damaged: {name} differs from its checksum" in error
        data[8 + length + place] ^= 1


def test_a_fault_in_the_rows_of_one_rank_ends_all(two_ranks: Ranks, tmp_path: Path) -> None:
    model = hf_model("300m", "qwen2", tied=False)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[-1, -1] = torch.nan
    model.save_pretrained(tmp_path)
    for found in two_ranks.run(error_as_rank, str(tmp_path)):
        assert "embedder.embedding.weight has 1 NaN" in found


def half_as_rank(rank: int, folder: str) -> str:
    """Loads into a model of half precision and with more words, which only one rank cannot."""
    checkpoint = read_folder(folder)
    parts = checkpoint.spec.parts
    model = ModelSpec(parts, 72, checkpoint.spec.image_token_id)
    with torch.device("meta"):
        built = meta_model(model)
    weights, shard_mesh = InitialWeights(built, folder), mesh()
    cast_parameters(built, torch.float16)
    shard_model(built, shard_mesh)
    materialize(built, torch.device("cpu"), 0, weights.given)
    try:
        weights.load(built)
    except CheckpointError as error:
        return str(error)
    return "no error"


def test_rows_are_checked_in_the_data_type_of_the_model(two_ranks: Ranks, tmp_path: Path) -> None:
    model = hf_model("300m", "qwen2", tied=False)
    with torch.no_grad():  # a row that only the second rank keeps, before the vocabulary is resized
        model.model.vision_tower.encoder.layer[0].mlp.fc1.weight[-1, -1] = 1e6
    model.save_pretrained(tmp_path)
    for found in two_ranks.run(half_as_rank, str(tmp_path)):
        assert "has 1 Inf" in found


def error_as_rank(rank: int, folder: str) -> str:
    try:
        load_as_rank(rank, folder)
    except CheckpointError as error:
        return str(error)
    return "no error"
