"""The benchmark of LangBridge on real handwriting runs, goes on where it ended, and compares its arms."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mmcomponents.backbones import DecoderLM
from mmcomponents.compose import Factories
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.positions import RoPE

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "langbridge_on_digits.py"
PUBLISHED = SCRIPT.parent / "results" / "langbridge_on_digits.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("langbridge_on_digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["langbridge_on_digits"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def large(script: Any) -> tuple[Any, Any]:
    """A small model in the place of SmolLM2, with a tokenizer of its own."""
    texts = [script.BEFORE + word + script.AFTER + word for word in (*script.DIGITS, *script.FILLERS)] * 2
    tokenizer = train_tokenizer(["a different text!", *texts], 600)
    parts = {"embedder": TokenEmbedder, "position": RoPE, "heads": {"lm": LMHead}}
    model = Factories(backbone=lambda: DecoderLM(40, 1, 4, 48), **parts).build(len(tokenizer) + 1, None)
    return model.eval(), tokenizer


def test_twenty_steps_of_each_arm(
    script: Any, large: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"BATCH": 4, "TEST": 8, "SMALL_BATCH": 4, "TEXT_STEPS": 20, "IMAGE_STEPS": 20}
    for name, size in sizes.items():
        monkeypatch.setattr(script, name, size)
    monkeypatch.setattr(script, "smollm2", lambda: large)
    before = [value.clone() for value in large[0].parameters()]
    out = tmp_path / "results.json"
    arguments = ["--seeds", "0", "--steps", "20", "--out", str(out), "--picture", str(tmp_path / "words.png")]
    assert script.main(arguments) == 0
    results = json.loads(out.read_text())
    assert {key.split("/")[0] for key in results} == {*script.ARMS}
    assert {len(found["right"]) for found in results.values()} == {8}
    assert (tmp_path / "words.png").exists()
    assert all(torch.equal(a, b) for a, b in zip(before, large[0].parameters(), strict=True))  # it is frozen
    first = capsys.readouterr().out
    assert "McNemar's exact p" in first
    monkeypatch.setattr(script, "train", None)  # nothing is trained again
    assert script.main(arguments) == 0
    assert capsys.readouterr().out == first


def test_questions_of_words_have_their_digit(script: Any, large: Any) -> None:
    _, tokenizer = large
    asked = script.Asked(tokenizer, 7)
    for seed in range(5):
        batch = asked.text(script.np.random.default_rng(seed))
        text, answer = tokenizer.decode(batch.input_ids[:-1]), tokenizer.decode(batch.labels[-2:-1])
        assert text.startswith(script.BEFORE)
        assert text.endswith(script.AFTER)
        assert answer in script.DIGITS
        assert answer in text
        assert not any(word in text for word in script.DIGITS if word != answer)


def test_scans_of_the_test_are_others(script: Any) -> None:
    scans = script.Scans(0)
    assert not {*scans.train} & {*scans.test}
    one, two = scans.drawn(3, 4, test=True), scans.drawn(3, 4, test=True)
    assert all(torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, two, strict=True))
