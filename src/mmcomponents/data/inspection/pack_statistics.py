"""Statistics of the expected packs: number, fill, and balance within a step.

The packs of a step are computed in parallel, and the step takes as long as its largest pack. As a baseline, the same
samples are also packed by first fit in the order of the shards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmcomponents.data.format.columns import Integers
from mmcomponents.data.packing.pack_plan import Block, Budgets, PackPlan

MOST_BLOCKS = 64
"""Largest number of blocks to plan; of a longer epoch, evenly spaced blocks are planned."""


@dataclass(frozen=True)
class Balance:
    """Balance of the packs of a step, averaged over steps.

    Attributes:
        packs: Number of packs.
        token_spread: Standard deviation over mean of the tokens of a step's packs (load of the language model).
        token_peak: Maximum over mean of the tokens of a step's packs.
        tile_spread: Standard deviation over mean of the tiles of a step's packs (load of the vision encoder).
        tile_peak: Maximum over mean of the tiles of a step's packs.
    """

    packs: int
    token_spread: float
    token_peak: float
    tile_spread: float
    tile_peak: float


@dataclass(frozen=True)
class Packing:
    """Expected packs of an epoch.

    Attributes:
        blocks: Number of blocks of the epoch.
        planned_blocks: Number of blocks that were planned for these figures.
        packs: Number of packs of the epoch; an estimate if not all blocks were planned.
        samples: Samples of the planned blocks, with repetitions.
        samples_per_pack: Mean number of samples of a pack.
        token_fill: Tokens over the token budget of all packs, including the last one, which is the least full.
        tile_fill: Tiles over the tile budget; None without such a budget.
        packs_per_step: Number of packs in a step, for the balance.
        planned: Balance of the planned packs.
        first_fit: Balance of packs by first fit in the order of the shards, for the same samples.
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
        plan: Plan of the run.
        epoch: The epoch to plan.
        packs_per_step: Number of consecutive packs in an optimizer step, over all ranks.
        most_blocks: Largest number of blocks to plan.
        progress: Called with (blocks done, blocks in total).
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
    """Packs samples by first fit: each goes, in the given order, into the first pack with enough space.

    Args:
        tokens: `[n]` tokens of each sample, none above the budget.
        tiles: `[n]` tiles of each sample, none above the budget.
        budgets: Token and tile budgets of a pack.

    Returns:
        Sample numbers of each pack, in the order in which the packs were opened.
    """
    most = int(tiles.sum()) if budgets.tiles is None else budgets.tiles
    token_space, tile_space = np.empty(len(tokens), np.int64), np.empty(len(tokens), np.int64)
    packs: list[list[int]] = []
    first, least = 0, int(tokens.min()) if len(tokens) else 0  # packs before `first` have no space for any sample
    for sample, (length, cut) in enumerate(zip(tokens.tolist(), tiles.tolist(), strict=True)):
        fits = (token_space[first : len(packs)] >= length) & (tile_space[first : len(packs)] >= cut)
        place = first + int(fits.argmax()) if len(fits) and fits.any() else len(packs)
        if place == len(packs):
            packs.append([])
            token_space[place], tile_space[place] = budgets.tokens, most
        packs[place].append(sample)
        token_space[place] -= length
        tile_space[place] -= cut
        while first < len(packs) and token_space[first] < least:
            first += 1
    return packs


def measure_balance(tokens: Integers, tiles: Integers, packs_per_step: int) -> Balance:
    """Computes the balance of the packs of a step.

    Args:
        tokens: `[packs]` tokens of each pack, in the order of use.
        tiles: `[packs]` tiles of each pack, in the same order.
        packs_per_step: Number of consecutive packs in a step; an incomplete last step is ignored unless it is the only
            one.
    """
    return Balance(len(tokens), *_spread(tokens, packs_per_step), *_spread(tiles, packs_per_step))


def _spread(loads: Integers, packs_per_step: int) -> tuple[float, float]:
    complete = len(loads) // packs_per_step * packs_per_step
    steps = loads[:complete].reshape(-1, packs_per_step) if complete else loads[None]
    means = steps.mean(1)
    steps, means = steps[means > 0], means[means > 0]
    if not len(steps):
        return 0.0, 1.0
    return float((steps.std(1) / means).mean()), float((steps.max(1) / means).mean())
