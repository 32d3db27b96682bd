"""What packs are to be expected: how many, how full, and how alike those of one step are.

The packs of a step are computed side by side, and the step waits for the slowest. So beside the planned packs stands
what a plain first fit in the order of the shards makes of the same samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmcomponents.data.plan import Block, Budgets, PackPlan
from mmcomponents.data.rows import Integers

MOST_BLOCKS = 64
"""Blocks of an epoch that are planned; of more, these are taken from all over the epoch."""


@dataclass(frozen=True)
class Balance:
    """How alike the packs of a step are, averaged over steps.

    Attributes:
        packs: That the samples took.
        token_spread: Language work: standard deviation of a step's packs over their mean, in tokens.
        token_peak: Largest pack of a step over their mean, in tokens.
        tile_spread: Vision work: the same in tiles.
        tile_peak: The same in tiles.
    """

    packs: int
    token_spread: float
    token_peak: float
    tile_spread: float
    tile_peak: float


@dataclass(frozen=True)
class Packing:
    """What is to be expected of an epoch.

    Attributes:
        blocks: Of the epoch.
        planned_blocks: That were planned for these figures.
        packs: Of the epoch; an estimate where not all blocks were planned.
        samples: Of the planned blocks, repeated ones counted each time.
        samples_per_pack: On average.
        token_fill: Tokens over the token budget of all packs, the last and emptiest included.
        tile_fill: Tiles over the tile budget; None where there is no such budget.
        packs_per_step: That the balance was measured with.
        planned: Balance of the packs as planned.
        first_fit: Balance of a first fit in the order of the shards, on the same samples.
    """

    blocks: int
    planned_blocks: int
    packs: int
    samples: int
    samples_per_pack: float
    token_fill: float
    tile_fill: float | None
    packs_per_step: int
    planned: Balance
    first_fit: Balance

    @property
    def exact(self) -> bool:
        """Whether all blocks were planned."""
        return self.planned_blocks == self.blocks


def measure_packing(
    plan: PackPlan,
    epoch: int = 0,
    packs_per_step: int = 8,
    most_blocks: int = MOST_BLOCKS,
    progress: Callable[[int, int], None] | None = None,
) -> Packing:
    """Plans some or all blocks of an epoch and measures the packs.

    Args:
        plan: Of the run.
        epoch: That is looked at.
        packs_per_step: Consecutive packs that are computed side by side.
        most_blocks: Blocks to plan at most.
        progress: Is told of each block.
    """
    if packs_per_step < 1 or most_blocks < 1:
        raise ValueError(f"packs_per_step {packs_per_step} and most_blocks {most_blocks} must be positive")
    blocks, budgets = plan.epochs.blocks(epoch), plan.budgets
    chosen = np.unique(np.linspace(0, blocks - 1, min(blocks, most_blocks)).astype(np.int64)).tolist()
    tokens, tiles, seen = list[int](), list[int](), list[Block]()
    for done, number in enumerate(chosen):
        block, packs = plan.block_packs(epoch, number)
        seen.append(block)
        tokens += [int(block.tokens[pack].sum()) for pack in packs]
        tiles += [int(block.tiles[pack].sum()) for pack in packs]
        if progress is not None:
            progress(done + 1, len(chosen))
    samples, copies, sizes, cuts = (np.concatenate([block[column] for block in seen]) for column in range(4))
    order = np.lexsort((samples, copies))
    plain = first_fit(sizes[order], cuts[order], budgets)
    plain_tokens = np.array([sizes[order[pack]].sum() for pack in plain])
    plain_tiles = np.array([cuts[order[pack]].sum() for pack in plain])
    return Packing(
        blocks=blocks,
        planned_blocks=len(chosen),
        packs=len(tokens) if len(chosen) == blocks else round(len(tokens) * blocks / len(chosen)),
        samples=len(samples),
        samples_per_pack=len(samples) / len(tokens),
        token_fill=sum(tokens) / (len(tokens) * budgets.tokens),
        tile_fill=None if budgets.tiles is None else sum(tiles) / (len(tokens) * budgets.tiles),
        packs_per_step=packs_per_step,
        planned=measure_balance(np.array(tokens), np.array(tiles), packs_per_step),
        first_fit=measure_balance(plain_tokens, plain_tiles, packs_per_step),
    )


def first_fit(tokens: Integers, tiles: Integers, budgets: Budgets) -> list[list[int]]:
    """Puts each sample, in the order given, into the first pack that has room for it.

    Args:
        tokens: `[n]` of each sample, none above the budget.
        tiles: `[n]` of each sample, none above the budget.
        budgets: Of a pack.

    Returns:
        Sample numbers of each pack, in the order in which the packs were opened.
    """
    most = int(tiles.sum()) if budgets.tiles is None else budgets.tiles
    token_room, tile_room = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
    packs: list[list[int]] = []
    first, least = 0, int(tokens.min()) if len(tokens) else 0  # packs before `first` have no room for any sample
    for sample, (length, cut) in enumerate(zip(tokens.tolist(), tiles.tolist(), strict=True)):
        fits = (token_room[first : len(packs)] >= length) & (tile_room[first : len(packs)] >= cut)
        place = first + int(fits.argmax()) if len(fits) and fits.any() else len(packs)
        if place == len(packs):
            packs.append([])
            token_room[place], tile_room[place] = budgets.tokens, most
        packs[place].append(sample)
        token_room[place] -= length
        tile_room[place] -= cut
        while first < len(packs) and token_room[first] < least:
            first += 1
    return packs


def measure_balance(tokens: Integers, tiles: Integers, packs_per_step: int) -> Balance:
    """Measures how alike the packs of a step are.

    Args:
        tokens: `[packs]` in the order in which they are used.
        tiles: `[packs]` likewise.
        packs_per_step: Consecutive packs of a step; packs that make no whole step are left out, unless there is none.
    """
    return Balance(len(tokens), *_spread(tokens, packs_per_step), *_spread(tiles, packs_per_step))


def _spread(loads: Integers, packs_per_step: int) -> tuple[float, float]:
    whole = len(loads) // packs_per_step * packs_per_step
    steps = loads[:whole].reshape(-1, packs_per_step) if whole else loads[None]
    means = steps.mean(1)
    steps, means = steps[means > 0], means[means > 0]
    if not len(steps):
        return 0.0, 1.0
    return float((steps.std(1) / means).mean()), float((steps.max(1) / means).mean())
