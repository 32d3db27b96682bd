"""Training of the tiny model on one rank and on two, with the library's own task, loader and strategy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch.optim import SGD

import tiny
from mmcomponents.batch import PackedBatch
from mmcomponents.data.loading.lookahead import Sums
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.positions import V2PE
from mmcomponents.testing import small_parts
from mmcomponents.testing.training_steps import PackList as Sized
from mmcomponents.testing.training_steps import StepRecorder as Notes
from mmcomponents.testing.training_steps import look_ahead, run_steps
from mmcomponents.testing.training_steps import unsharded as whole
from mmcomponents.training import MultimodalTask

__all__ = ["Notes", "Sized", "look_ahead", "whole"]


def make_task(**changes: Any) -> MultimodalTask:
    """Returns the tiny InternVL3 as a task."""
    arguments: dict[str, Any] = {
        **small_parts(),
        "position": V2PE,
        "optimizer": partial(SGD, lr=0.05, momentum=0.9),
        "vocab_size": tiny.VOCAB,
        "image_token_id": tiny.IMAGE_TOKEN,
    }
    return MultimodalTask(**(arguments | changes))


def micro_batches(steps: int, ranks: int, window: int) -> list[list[list[PackedBatch]]]:
    """Returns packs by step, micro-batch and rank: unequal targets, no image on rank 1, one pack without target."""
    out = []
    for step in range(steps):
        batches = []
        for micro in range(window):
            ranked = []
            for rank in range(ranks):
                seed = 100 * step + 10 * micro + rank
                text = [("t", 4 + (seed * 7) % 9)]
                pieces = [*text, ("i", 1 + seed % 2), ("t", 9)] if rank == 0 else [*text, ("t", 3)]
                ranked.append(
                    tiny.pack(pieces, text, seed=seed, targets=[1 + (step + 3 * micro + rank) % 7, 0 if micro else 2])
                )
            batches.append(ranked)
        out.append(batches)
    return out


class OwnCounts(StepCounts):
    """Counts that are not summed over ranks, for negative tests."""

    def reduce(self, sums: Sums) -> Sums:
        return sums


def train(packs: list[PackedBatch], window: int, task: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Trains the tiny model; see `run_steps`."""
    return run_steps(make_task(**(task or {})), packs, window, **options)


def train_as_rank(rank: int, strategy: str, steps: int, window: int, options: dict[str, Any]) -> dict[str, Any]:
    """Trains one rank of a run over two ranks."""
    mine = [ranked[rank] for batches in micro_batches(steps, 2, window) for ranked in batches]
    return train(mine, window, strategy=strategy, devices=2, **options)


def folder_of(path: Path) -> list[str]:
    """Returns the names of the files of a checkpoint."""
    return sorted(p.name for p in path.iterdir())
