"""Tests of the checksums in files of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.checks.checksums import KEY, crc32, from_metadata
from mmcomponents.checkpoints.files import read_weights, write_weights
from mmcomponents.checkpoints.rules import lazy

FILE = "model.safetensors"


def _written(folder: Path) -> dict[str, torch.Tensor]:
    state = {"a.weight": torch.randn(40, 30).bfloat16(), "b.weight": torch.randn(7), "c": torch.tensor(3.0)}
    write_weights(folder, {name: lazy(value) for name, value in state.items()})
    return state


def _is_inside(place: int, name: str, whole: bytes, data: int) -> bool:
    begin, end = json.loads(whole[8:data])[name]["data_offsets"]
    return bool(begin <= place < end)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    state = _written(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    for place in (data, data + 1500, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        (tmp_path / FILE).write_bytes(damaged)
        read, wrong = read_weights(tmp_path), [name for name in state if _is_inside(place - data, name, whole, data)]
        assert len(wrong) == 1
        for name, value in state.items():
            if name not in wrong:
                assert torch.equal(read[name].load(), value)
                continue
            with pytest.raises(CheckpointError, match=rf"{FILE} is damaged: {name} differs from its checksum"):
                read[name].load()


def test_a_file_that_another_program_rewrote_is_read(tmp_path: Path) -> None:
    state = _written(tmp_path)
    save_file(load_file(tmp_path / FILE) | {"b.weight": torch.ones(7)}, tmp_path / FILE, metadata={"format": "pt"})
    found = read_weights(tmp_path)
    assert torch.equal(found["b.weight"].load(), torch.ones(7))
    assert torch.equal(found["a.weight"].load(), state["a.weight"])


def test_the_table_is_one_key_beside_the_format(tmp_path: Path) -> None:
    state = _written(tmp_path)
    with safe_open(tmp_path / FILE, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"format", KEY}
    assert json.loads(metadata[KEY]) == {name: crc32(value) for name, value in state.items()}
    first = (tmp_path / FILE).read_bytes()
    for _ in range(8):  # safetensors writes metadata in random order
        write_weights(tmp_path, {name: lazy(value) for name, value in reversed(state.items())})
        assert (tmp_path / FILE).read_bytes() == first


@pytest.mark.parametrize("table", ["{", "[]", '{"a.weight": "x"}', '{"a.weight": 1}'])
def test_a_damaged_table_is_told(tmp_path: Path, table: str) -> None:
    save_file(_written(tmp_path), tmp_path / FILE, metadata={"format": "pt", KEY: table})
    with pytest.raises(CheckpointError, match=r"is not a table of checksums|is damaged: it has no checksum of"):
        read_weights(tmp_path)
    assert from_metadata(None, tmp_path) is None
