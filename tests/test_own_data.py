"""The Python code of docs/own_data.md runs as one script, and its classes pass the contract tests and train."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD

import tiny
from mmcomponents import registry
from mmcomponents.cli.main import main
from mmcomponents.testing import Ranks, small_parts
from mmcomponents.training import MultimodalTask

PAGE = (Path(__file__).parents[1] / "docs" / "own_data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def page() -> Any:
    module = ModuleType("own_data_page")
    sys.modules[module.__name__] = module
    exec(compile("\n".join(blocks("python")), "docs/own_data.md", "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def test_the_tests_of_the_page_pass(page: Any, two_ranks: Ranks) -> None:
    page.test_data_parts()
    page.test_model_parts(two_ranks)
    assert page.OneEach().pack(np.array([[0.1, 0.1]] * 2)) == [[0], [1]]


def test_the_data_module_trains(page: Any, tmp_path: Path) -> None:
    parts = small_parts(heads={"number": page.NumberHead})
    task = MultimodalTask(
        **parts, objective=page.NumberLoss, sampler=page.NumberSampler, optimizer=partial(SGD, lr=0.01),
        vocab_size=tiny.VOCAB,
    )  # fmt: skip
    data = page.DrawnData(size=6)
    task.check(data)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=4, accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 4
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert data.state_dict()["packs"] == 8


def test_the_table_names_the_base_classes() -> None:
    bases = re.findall(r"^\| [a-z ]+ \| `([\w.]+)`", PAGE, flags=re.MULTILINE)
    assert len(bases) == 6
    assert all(isinstance(registry.imported(path), type) for path in bases)
    named = set(re.findall(r"`(\w+)\.NAME`", PAGE))
    assert named == {"record_kind", "objective", "sampler", "packer"} <= registry.slots().keys()


def test_the_recipes_of_the_page_are_read(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package.py").write_text("\n".join(blocks("python")))
    numbers, drawn = blocks("yaml")
    (tmp_path / "numbers.yaml").write_text(numbers)
    (tmp_path / "drawn.yaml").write_text(drawn)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--config", "numbers.yaml", "--print_config"])
        main(["fit", "--config", "drawn.yaml", "--trainer.max_steps", "3", "--data.size", "6"])
    finally:
        sys.modules.pop("my_package", None)
    assert (tmp_path / "runs/drawn/checkpoints/last.ckpt").exists()
