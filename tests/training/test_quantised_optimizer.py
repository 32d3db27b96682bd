"""AdamW with 8-bit states (torchao). Its first step compiles, which takes up to a minute on a CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import tiny
from mmcomponents.testing import small_parts, text_packs
from mmcomponents.testing.training_steps import run_steps
from mmcomponents.training import FinalCheckpoint, MultimodalTask
from mmcomponents.training.memory.optimizer_state import state_bytes

torchao = pytest.importorskip("torchao.optim", reason="needs mmcomponents[torchao]")

PACKS = [pack for seed in range(4) for pack in text_packs(seed, tile=tiny.TILE, tokens_per_tile=4)][:8]


def task() -> MultimodalTask:
    wide = small_parts(vision=tiny.vision_factory(hidden_size=96, intermediate_size=96))  # matrices of 4,096 elements
    optimizer = partial(torchao.AdamW8bit, lr=1e-3)
    return MultimodalTask(**wide, optimizer=optimizer, vocab_size=tiny.VOCAB, image_token_id=tiny.IMAGE_TOKEN)


@pytest.mark.slow
def test_a_run_with_8_bit_states_goes_on_exactly(tmp_path: Path) -> None:
    """The states of a checkpoint are tensor subclasses, which are read without running code."""
    path = str(tmp_path / "half.ckpt")
    callbacks = [FinalCheckpoint(dirpath=str(tmp_path / "unused"))]
    settings = {"callbacks": callbacks, "enable_checkpointing": True}
    whole = run_steps(task(), PACKS, 1, **settings)
    run_steps(task(), PACKS[:4], 1, save_to=path, **settings)
    resumed = run_steps(task(), PACKS[4:], 1, ckpt_path=path, max_epochs=2, **settings)
    assert resumed["losses"] == whole["losses"][4:]
    for name, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], weight), name


def test_a_plan_counts_two_bytes_per_weight() -> None:
    found = state_bytes(partial(torchao.AdamW8bit, lr=1e-3), torch.float32)
    assert found == pytest.approx(2 + 2 * 4 / 256, rel=0.02)  # two codes, and a scale for each block of 256
