"""The code of docs/lightning.md runs: an own Trainer, callbacks, loggers, early stopping, and loaders of packs."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.demos.handwriting.builder import make_handwriting

PAGE = Path(__file__).parents[1] / "docs" / "lightning.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns the names that the page's code defines, and its folder."""
    folder = tmp_path_factory.mktemp("lightning")
    make_handwriting(folder / "data" / "handwriting", scenes=60, held_out=4, val_scenes=8)
    names: dict[str, Any] = {"folder": folder, "trainers": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, PAGE.name, "exec"), names)
            names["trainers"].append(names.get("trainer"))
    return names


def test_what_is_not_given_is_filled_in(found: dict[str, Any]) -> None:
    task, data = found["task"], found["data"]
    assert (task.vocab_size, data.tokens_per_tile) == (len(data.tokenizer), 4)
    assert task.image_token_id == data.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert found["trainers"][0].global_step == 4


def test_callbacks_and_loggers_see_the_run(found: dict[str, Any]) -> None:
    trainer, folder = found["trainers"][1], found["folder"]
    assert found["steps"].count == trainer.global_step == 4, "the second validation ends the run"
    (file,) = (folder / "runs/own").rglob("metrics.csv")
    rows = list(csv.DictReader(file.open()))
    for name in (
        "train/loss",
        "val/loss",
        "grad_norm",
        "grad_norm/vision",
        "lr-AdamW/vision",
        "perf/tokens_per_second",
    ):
        values = [float(row[name]) for row in rows if row.get(name)]
        assert values, name
        assert all(map(math.isfinite, values)), name
    assert {path.name for path in (folder / "runs/own/checkpoints").iterdir()} >= {"last.ckpt"}


def test_loaders_of_packs_train(found: dict[str, Any]) -> None:
    assert found["trainers"][2].global_step == 2  # four packs, two a step
    assert math.isfinite(float(found["answers"]))
