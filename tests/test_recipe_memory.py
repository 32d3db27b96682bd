"""Every recipe of a training stage fits the GPUs that its comment names, as `mmcomponents plan` counts."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmcomponents.training.memory.verdict import RESERVE

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "recipe_memory.py"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_memory", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recipe_memory"] = module
    spec.loader.exec_module(module)
    return module


MEMORY: Any = script()
GPUS = {"1b": "8 x 24, 1 x 80", "2b": "8 x 24, 1 x 80", "38b": "32 x 80", "78b": "64 x 80"}
"""Number and memory of the GPUs that a size is meant for; the others are for 8 GPUs of 80 GB."""

OTHERS = {
    "38b-finetune": "16 x 80",
    "38b-prm": "16 x 80",
    "8b-lora-24gb": "1 x 24",
    "8b-qlora-24gb": "1 x 24",
    "78b-mpo": "96 x 80, 64 x 80",
    "2b-stage1": "8 x 80",
    "2b-stage2": "8 x 80",
    "2b-instruct": "8 x 80",
}

CHECKED = ("/1b-pretrain", "/8b-qlora-24gb", "/8b-sft", "/14b-mpo")
"""Some stages and sizes; the rest is slow."""


@pytest.mark.parametrize("name", MEMORY.stages())
def test_a_comment_names_the_gpus(name: str) -> None:
    named = ", ".join(f"{claim.devices} x {claim.capacity}" for claim in MEMORY.claims(name))
    size = re.split("[/-]", name)[1]
    other = OTHERS.get(name.rpartition("/")[2])
    assert named == (other or GPUS.get(size, "8 x 80"))


@pytest.mark.parametrize(
    "name",
    [n if n.endswith(CHECKED) else pytest.param(n, marks=pytest.mark.slow) for n in MEMORY.stages()],
)
def test_a_recipe_fits_them_and_takes_what_its_comment_says(name: str) -> None:
    if name.endswith("24gb"):
        pytest.importorskip("torchao", reason="needs mmcomponents[torchao]")
    if name.startswith("got/"):
        pytest.importorskip("diffusers", reason="needs mmcomponents[diffusers]")
    for claim in MEMORY.claims(name):
        assert MEMORY.used(name, claim) == pytest.approx(claim.used, abs=0.06)
        assert claim.used <= claim.capacity * (1 - RESERVE)
