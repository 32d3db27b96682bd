"""Model cards of written folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from mmcomponents.checkpoints import ModelSpec
from mmcomponents.checkpoints.rules import lazy
from mmcomponents.cli.models.model_card import RunOrigin, write_card


def spec(**heads: str) -> ModelSpec:
    parts = {"vision": {"class_path": "InternViT"}, "backbone": {"class_path": "DecoderLM"}, "projector": None}
    return ModelSpec({**parts, "heads": {name: {"class_path": path} for name, path in heads.items()}})


WEIGHTS = {"vision.a": lazy(torch.zeros(1000, 2)), "backbone.b": lazy(torch.zeros(3))}


def test_the_hub_reads_the_metadata(tmp_path: Path) -> None:
    write_card(tmp_path, "mine", spec(lm="LMHead"), WEIGHTS, "mmcomponents")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text"
    assert card.data.library_name == "mmcomponents"
    assert card.data.tags == ["mmcomponents", "InternViT", "DecoderLM", "LMHead"]
    assert "A model of 2,003 parameters" in card.text
    assert "| `vision` | `InternViT` | 2,000 |" in card.text
    assert 'mmcomponents.load("mine")' in card.text
    assert "Recipe" not in card.text


def test_the_task_is_that_of_the_heads(tmp_path: Path) -> None:
    for head, task, library in (("DetectionHead", "object-detection", "official"), ("my.Head", None, "transformers")):
        write_card(tmp_path, "mine", spec(h=head), WEIGHTS, library)
        card = ModelCard.load(tmp_path / "README.md")
        assert card.data.pipeline_tag == task
        assert card.data.library_name == ("transformers" if library == "transformers" else "mmcomponents")


def test_a_run_gives_its_recipe_and_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "converted").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(
        "model:\n  vocab_size: 7\ntrainer:\n  default_root_dir: runs/x and\n    more\n  max_steps: 3\n"
        f"data:\n  tokenizer: {Path.cwd()}/data/tokenizer\n  train:\n  - '{Path.cwd()}/data/a.tar'\n"
        f"  test: /mnt{Path.cwd()}/data/b.tar\n"
    )
    (run / "report.json").write_text(json.dumps({"exact_match": {"read": 0.91, "": 0.5}, "name": "x"}))
    (run / "broken.json").write_text("{")
    (run / "test-long").mkdir()
    (run / "test-long" / "boxes.json").write_text('{"ap": 0.5}')
    (run / "earlier.json").write_text('{"ap": 0.7}')
    checkpoint = run / "last.ckpt"
    checkpoint.write_text("")
    now = checkpoint.stat().st_mtime
    for name, time in (("last.ckpt", now - 20), ("earlier.json", now - 30)):
        os.utime(run / name, (time, time))
    write_card(tmp_path, "mine", spec(lm="LMHead"), WEIGHTS, "mmcomponents", RunOrigin(run, checkpoint))
    text = ModelCard.load(tmp_path / "README.md").text
    assert "| report.exact_match.read | 0.91 |\n| report.exact_match | 0.5 |" in text
    assert "| long: boxes.ap | 0.5 |" in text
    assert "earlier" not in text  # the figures of another checkpoint
    assert "earlier.json, which is older than" in caplog.text
    write_card(tmp_path / "converted", "other", spec(lm="LMHead"), WEIGHTS, "transformers", tmp_path)
    again = ModelCard.load(tmp_path / "converted" / "README.md").text
    assert again[again.index("## Figures") :] == text[text.index("## Figures") :]
    (tmp_path / "README.md").write_text("# theirs\n\n## Figures\n\nnone\n")
    write_card(tmp_path / "converted", "other", spec(lm="LMHead"), WEIGHTS, "transformers", tmp_path)
    assert "Figures" not in (tmp_path / "converted" / "README.md").read_text()
    assert '```yaml\nmodel:\n  vocab_size: 7\ntrainer:\n  default_root_dir: "runs/mine"\n  max_steps: 3\n' in text
    assert "tokenizer: data/tokenizer\n  train:\n  - 'data/a.tar'\n" in text
    assert f"test: /mnt{Path.cwd()}/data/b.tar\n```" in text
