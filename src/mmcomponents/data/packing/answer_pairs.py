"""Single epoch of all pairs of answers in order, over which reference log-probabilities are computed."""

from __future__ import annotations

import hashlib

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.format.columns import Integers
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.packing.groups import Mask
from mmcomponents.data.packing.pack_plan import BLOCK, Block, Budgets
from mmcomponents.data.packing.sizes import Sizes


def are_pairs(index: Index, shard: int) -> Mask:
    """Returns a `[samples]` mask of the pairs in a shard; all False for an unusable shard."""
    columns = index.columns(shard)
    if shard in index.lost_shards:
        return np.zeros(len(columns), np.bool_)
    # A sample with a problem has one segment.
    pairs: Mask = (columns.segments == 2) & (columns.kind == 0)
    return pairs


class PairsOnce:
    """Single epoch of all pairs of an index in the order of their numbers, see `pack_plan.Epochs`.

    Args:
        index: Index of the samples; samples that are not pairs are ignored.
        sizes: Sizes of the samples.
        budgets: Budgets of a pack.
        block: Number of pairs that are packed together.

    Attributes:
        samples: `[n]` numbers of the pairs that fit into a pack.
        others: Number of samples that are not pairs.
        refused: (sample, reason) of the pairs that exceed a budget.

    Raises:
        DataError: No pair is left.
    """

    def __init__(self, index: Index, sizes: Sizes, budgets: Budgets, block: int = BLOCK) -> None:
        self.index, self.sizes, self.budgets, self.block_size = index, sizes, budgets, block
        self.refused: list[tuple[int, str]] = []
        self.others = 0
        found: list[Integers] = []
        for shard, first in enumerate(index.begins[:-1].tolist()):
            pairs = are_pairs(index, shard)
            tokens, tiles = sizes.largest(index.columns(shard))
            fit = budgets.fit(tokens, tiles)
            self.refused += [
                (first + sample, budgets.excess(int(tokens[sample]), int(tiles[sample])))
                for sample in np.flatnonzero(pairs & ~fit).tolist()
            ]
            found.append(first + np.flatnonzero(pairs & fit))
            self.others += int((~pairs).sum())
        self.samples: Integers = np.concatenate(found)
        if not len(self.samples):
            large = f"; {len(self.refused)} pairs exceed a budget of a pack" if self.refused else ""
            raise DataError(f"none of the {len(index)} samples of data.predict is a usable pair{large}")

    def blocks(self, epoch: int) -> int:
        """Returns the number of blocks."""
        return -(-len(self.samples) // self.block_size)

    def block(self, epoch: int, number: int) -> Block:
        """Returns one block of pairs."""
        samples = self.samples[number * self.block_size : (number + 1) * self.block_size]
        copies = np.zeros_like(samples)
        return Block(samples, copies, *self.sizes.of(self.index.take(samples), samples, copies, epoch))

    def fingerprint(self) -> str:
        """Returns a short hash of the numbers of the pairs."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()[:16]
