"""Tests that the examples run."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import tiny
from mmcomponents.cli.main import main
from mmcomponents.component import Component
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.demos.handwriting.builder import make_handwriting

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_projector_fits_into_a_model() -> None:
    part: Component = example("own_projector").GatedProjector(4 * tiny.VISION, tiny.WIDTH)
    model = tiny.model(projector=part)
    assert model(tiny.pack([("t", 2), ("i", 1)])).hidden.shape == (6, tiny.WIDTH)


def test_plain_loop_runs(capsys: pytest.CaptureFixture[str]) -> None:
    share = example("plain_loop").main(steps=3)
    assert 0 <= share <= 1
    assert "of 100 right" in capsys.readouterr().out


def test_own_data_is_packed_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_handwriting(str(tmp_path / "set"), scenes=20, held_out=4, val_scenes=4, vocab_size=400)
    tokenizer, out = str(tmp_path / "set/tokenizer"), tmp_path / "own"
    sizes = ["--tokens_per_tile", "4", "--tile_size", "28", "--max_tokens", "1536", "--num_workers", "1"]
    meta = str(EXAMPLES / "own_data/meta.json")
    assert main(["data", "pack", meta, "--tokenizer", tokenizer, "--out", str(out), *sizes]) == 0
    (refused,) = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert (refused["line"], refused["code"]) == (6, "placeholders")
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())["data"]
    sources = {name: SourceOptions(**options) for name, options in recipe["sources"].items()}
    data = PackedDataModule(tokenizer, 4, recipe["train"], tile_size=28, pack_tokens=1536, sources=sources)
    data.setup("fit")
    assert data.mixture is not None
    assert [(share.name, share.samples, share.passes) for share in data.mixture.shares()] == [
        ("scenes", 5, 2.4),
        ("preferences", 1, 1.0),
    ]


@pytest.mark.slow
def test_plain_loop_learns() -> None:
    assert example("plain_loop").main() >= 0.9
