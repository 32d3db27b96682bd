"""`benchmarks/gpu.py` on the CPU: each part ends with a result, and what it cannot run is one line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("train-1b", ["loss against transformers, padded", "loss against transformers, packed", "layers"]),
        ("correctness", ["gradients of fsdp2 on one device"]),
        ("mpo", ["loss of transformers, images once", "speed, ours over"]),
        ("decode", ["eight prompts: share of equal tokens"]),
    ],
)
def test_a_part_runs_on_the_cpu(part: str, words: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--part", part, "--tiny", "--out", tmp_path])
    assert done.returncode == 0
    result = json.loads((tmp_path / f"gpu_{part}_tiny.json").read_text())
    assert result["problem"] is None
    assert result["machine"]["torch"] == torch.__version__
    assert set(words) <= result["values"].keys()
    if part == "train-1b":
        assert result["values"]["ours"]["predicted_bytes"] > 1e6
        assert result["values"]["useful tokens/s, ours over transformers"].keys() == {"padded", "packed"}


def test_a_machine_without_a_gpu_is_told_in_one_line(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.problem(tiny=False) == "torch finds no CUDA device; --tiny runs small models on the CPU"
    assert gpu.problem(tiny=True) is None

    def old() -> bool:
        text = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."
        warnings.warn(text, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", old)
    assert "driver on your system is too old (found version 11040)" in gpu.problem(tiny=False)
    monkeypatch.setitem(gpu.NEEDS, "no_such_module", "no-such-package")
    assert gpu.problem(tiny=True).startswith("missing packages: pip install no-such-package (and xformers")


def test_a_part_that_fails_or_takes_too_long_leaves_what_it_measured(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu_parts.py").write_text(
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[2]).write_text('{\"first\": 1}')\n"
        "time.sleep(60) if sys.argv[1] == 'mpo' else sys.exit('a difference of 1')\n"
    )
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    assert not gpu.run("decode", True, tmp_path, 1.0)
    assert not gpu.run("mpo", True, tmp_path, 0.02)
    found: dict[str, Any] = {p: json.loads((tmp_path / f"gpu_{p}_tiny.json").read_text()) for p in ("decode", "mpo")}
    assert found["decode"]["problem"] == "a difference of 1"
    assert found["mpo"]["problem"] == "not done after 0.02 minutes"
    assert all(result["values"] == {"first": 1} for result in found.values())


def test_the_table_says_what_was_not_measured(gpu: ModuleType, tmp_path: Path) -> None:
    measured = {"seconds": 1.0, "useful_tokens_per_second": 51234.0, "peak_bytes": 2**33, "predicted_bytes": 2**33}
    values = {
        "ours": measured | {"mfu": {"total": 0.51}},
        "useful tokens/s, ours over transformers": {"padded": 1.623},
        "layers": {"trained": 20, "of": 28},
    }
    machine = {"device": "NVIDIA H200", "torch": "2.11.0", "commit": "abc"}
    result = {"part": "train-8b", "machine": machine, "problem": None, "values": values}
    (tmp_path / "gpu_train-8b.json").write_text(json.dumps(result))
    rows = gpu.table(tmp_path).splitlines()
    assert "| correctness | | not measured |" in rows
    (row,) = (row for row in rows if row.startswith("| train-8b"))
    assert "NVIDIA H200, torch 2.11.0, abc" in row
    assert "cut to 20 of 28 layers; ours: 51,234 useful tokens/s, 8.0 GiB (predicted 8.0), MFU 51%" in row
    assert "padded 1.62" in row


def test_the_table_of_the_page_is_that_of_the_results(gpu: ModuleType) -> None:
    assert gpu.table(gpu.RESULTS) in (SCRIPT.parents[1] / "docs" / "speed.md").read_text(encoding="utf-8")
