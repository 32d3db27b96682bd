"""Contract 7 for all stages: 1, 2 and 4 processes compute the same steps, sharded over all or over two groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import tiny
from contracts.pair import micro_batches, train
from contracts.test_two_ranks import assert_alike
from mmcomponents.batch import PackedBatch
from mmcomponents.heads import Verbalizer
from mmcomponents.objectives import MPO, NextToken, ProcessReward, StoredReference
from mmcomponents.testing import Ranks
from mmcomponents.testing.sample_packs import VERDICTS
from mmcomponents.training import FSDP2Strategy, SlotOptions
from pair_packs import join, no_pair, pair, with_reference
from step_packs import with_steps

STEPS, WINDOW, SHARES = 20, 2, 4
"""Optimizer steps; packs of a share in a step; shares of a global batch, which one, two or four processes take."""

FROZEN = {"vision": SlotOptions(trainable=False), "backbone": SlotOptions(activation_checkpointing="full")}


def texts() -> list[list[list[PackedBatch]]]:
    """Returns packs with unequal targets; only the first share has images."""
    return micro_batches(STEPS, SHARES, WINDOW)


def pairs() -> list[list[list[PackedBatch]]]:
    """Returns packs with two pairs, one or none."""
    out = []
    for step in range(STEPS):
        batches = []
        for micro in range(WINDOW):
            seed = 100 * step + 10 * micro
            one = pair([("t", 3), ("i", 1 + step % 2), ("t", 4)], 2 + step % 3, 5, seed=seed)
            two, other = pair([("t", 4)], 6, 3, seed=seed + 1), pair([("t", 5 + step % 4)], 3, 2, seed=seed + 2)
            shares = [join(one, two), no_pair(seed=seed) if micro else other, two, other]
            batches.append([with_reference(share, 3) for share in shares])
        out.append(batches)
    return out


def steps() -> list[list[list[PackedBatch]]]:
    """Returns packs with scored steps, of unequal numbers; only the first share has images."""
    return [
        [
            [with_steps(share, [1 + (number + rank) % 3, 2], seed=number + rank) for rank, share in enumerate(shares)]
            for number, shares in enumerate(batches)
        ]
        for batches in micro_batches(STEPS, SHARES, WINDOW)
    ]


Packs = Callable[[], list[list[list[PackedBatch]]]]
STAGES: dict[str, tuple[dict[str, Any], Packs]] = {
    "pre-training": ({"objective": partial(NextToken, weighting="square")}, texts),
    "SFT": ({"objective": partial(NextToken, weighting="token"), "slots": FROZEN}, texts),
    "MPO": ({"objective": partial(MPO, reference=StoredReference)}, pairs),
    "process reward": (
        {"objective": ProcessReward, "heads": {"lm": partial(Verbalizer, token_ids=VERDICTS)}, "slots": FROZEN},
        steps,
    ),
}


def train_share(rank: int, world: int, stage: str, replicate: int) -> dict[str, Any]:
    """Trains one of several processes on its shares of the global batches."""
    task, packs = STAGES[stage]
    per_rank = SHARES // world
    mine = [
        pack for batches in packs() for shares in batches for pack in shares[rank * per_rank : (rank + 1) * per_rank]
    ]
    options = {} if world == 1 else {"strategy": FSDP2Strategy(replicate=replicate), "devices": world}
    return train(mine, WINDOW * per_rank, task, **options)


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks


@pytest.mark.parametrize(
    ("stage", "replicate"),
    [
        ("SFT", 2),
        *(pytest.param(stage, 1, marks=pytest.mark.slow) for stage in STAGES),
        *(pytest.param(stage, 2, marks=pytest.mark.slow) for stage in STAGES if stage != "SFT"),
    ],
)
def test_four_ranks_equal_one(four_ranks: Ranks, stage: str, replicate: int) -> None:
    one = train_share(0, 1, stage, 1)
    assert len(one["losses"]) == STEPS
    assert max(one["norms"]) > 0.5, "clipping is active"
    found = four_ranks.run(train_share, 4, stage, replicate)
    for each in found:
        assert_alike(one, each)
        assert each["losses"] == found[0]["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_equal_one(two_ranks: Ranks, stage: str) -> None:
    one = train_share(0, 1, stage, 1)
    for each in two_ranks.run(train_share, 2, stage, 1):
        assert_alike(one, each)


def test_images_and_targets_are_unequal() -> None:
    for stage, (_, packs) in STAGES.items():
        shares = packs()[0][0]
        assert [share.images is None for share in shares][1:] == [True] * 3, stage
        assert len({int((share.labels >= 0).sum()) for share in shares}) > 1, stage
    assert max(VERDICTS) < tiny.VOCAB
