"""A critic's head has the weight of a language-model head: it is loaded from one and written as one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from checkpoints_models import hf_model
from mmcomponents.checkpoints import convert, read, save
from mmcomponents.checkpoints.initial import load_initial
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead, Verbalizer


def critic(tied: bool):
    head = Verbalizer(tiny.WIDTH, tiny.VOCAB, (7, 3), tied=tied)
    return tiny.model(seed=5, embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH), heads={"lm": head})


@pytest.mark.parametrize("tied", [False, True])
def test_a_critic_starts_from_a_language_model_and_becomes_one(tied: bool, tmp_path: Path, caplog) -> None:
    hf_model("300m", "qwen2", tied).save_pretrained(tmp_path / "hf")
    theirs, model = read(tmp_path / "hf"), critic(tied)
    with caplog.at_level(logging.WARNING):
        load_initial(model, tmp_path / "hf")
    assert "initialised randomly" not in caplog.text
    expected = theirs.load()
    assert torch.equal(model.heads["lm"].weight, expected.heads["lm"].weight)

    head = {"class_path": "Verbalizer", "init_args": {"token_ids": [7, 3], "tied": tied}}
    spec = replace(theirs.spec, parts={**theirs.spec.parts, "heads": {"lm": head}})
    with torch.no_grad():
        model.heads["lm"].weight.add_(1.0)
    save(model, tmp_path / "ours", like=replace(theirs, spec=spec), format="mmcomponents")
    ours = read(tmp_path / "ours").load()
    assert isinstance(ours.heads["lm"], Verbalizer)
    assert ours.heads["lm"].token_ids == (7, 3)
    for name in ("official", "transformers"):
        convert(read(tmp_path / "ours"), tmp_path / name, name)
        plain = read(tmp_path / name).load()
        assert type(plain.heads["lm"]) is LMHead
        assert torch.equal(plain.heads["lm"].weight, model.heads["lm"].weight)
    back = tiny.model(
        seed=9, embedder=TokenEmbedder(tiny.VOCAB, tiny.WIDTH), heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=tied)}
    )
    load_initial(back, tmp_path / "ours")
    assert torch.equal(back.heads["lm"].weight, model.heads["lm"].weight)
