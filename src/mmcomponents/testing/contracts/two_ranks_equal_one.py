"""Contract 7: training on two ranks gives what training on one gives, from the same packs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import SGD

from mmcomponents.batch import PackedBatch
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.testing.case import Case, OutputNorm
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE, join
from mmcomponents.testing.ranks import Ranks
from mmcomponents.testing.report import Findings
from mmcomponents.testing.training_steps import run_steps
from mmcomponents.training import FSDP2Strategy, MultimodalTask

_STEPS, _WINDOW = 2, 2


def two_ranks_equal_one(case: Case, found: Findings, ranks: Ranks) -> None:
    """Compares losses, gradient norms, weights and the objective's state of `fsdp2` on two ranks with those of one.

    The two ranks use selective activation checkpointing. In each micro-batch one rank has no images, and the numbers of
    targets differ. Gradients are accumulated over two packs.
    """
    batches = _micro_batches(case)
    one = run_steps(make_task(case), [pack for ranked in batches for pack in ranked], 2 * _WINDOW)
    pair = ranks.run(_as_rank, case, [[ranked[rank] for ranked in batches] for rank in range(2)])
    found.true(len(one["losses"]) == _STEPS, f"{len(one['losses'])} steps were run, not {_STEPS}")
    for rank, two in enumerate(pair):
        compare_runs(found, f"rank {rank}", two, one)


def compare_runs(found: Findings, name: str, run: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compares two results of `run_steps`."""
    for what in ("losses", "norms"):
        found.close(f"{name}: {what} by step", torch.tensor(run[what]), torch.tensor(expected[what]))
    for what in ("weights", "objective"):
        found.tensors(f"{name}: final {what}", run[what], expected[what], allowed=1e-5)


def make_task(case: Case, weights: str | None = None) -> MultimodalTask:
    """Returns the task that trains a case's model."""
    objective: Callable[[], Objective] = case.factory if case.slot == "objective" else OutputNorm
    if case.slot != "objective" and case.has_language_head:
        objective = NextToken
    return MultimodalTask(
        **case.parts,
        objective=objective,
        optimizer=partial(SGD, lr=0.05, momentum=0.9),
        vocab_size=VOCAB_SIZE,
        image_token_id=IMAGE_TOKEN,
        weights=weights,
    )


def _micro_batches(case: Case) -> list[list[PackedBatch]]:
    """Returns the packs of both ranks by micro-batch: those with images, joined, and those without, in turn."""
    batches = []
    for seed in range(_STEPS * _WINDOW):
        packs = case.samples(seed)
        with_images = [pack for pack in packs if pack.images is not None]
        text = [pack for pack in packs if pack.images is None]
        if not with_images:
            with_images, text = text[::2], text[1::2]
        ranked = [join(*with_images), join(*text)]
        batches.append(ranked if seed % 2 == 0 else ranked[::-1])
    return batches


def _as_rank(rank: int, case: Case, packs: Sequence[Sequence[PackedBatch]]) -> dict[str, Any]:
    strategy = FSDP2Strategy(activation_checkpointing="selective")
    return run_steps(make_task(case), packs[rank], _WINDOW, strategy=strategy, devices=2)
