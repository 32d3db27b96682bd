"""The pairs of answers among some samples, each once and in order: what reference log-probabilities are computed of."""

from __future__ import annotations

import hashlib

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.groups import Mask
from mmcomponents.data.index import Index
from mmcomponents.data.plan import BLOCK, Block, Budgets
from mmcomponents.data.rows import Integers
from mmcomponents.data.sizes import Sizes


def are_pairs(index: Index, shard: int) -> Mask:
    """Which samples of a shard are pairs, `[samples]`; of a shard that cannot be read, none is."""
    rows = index.rows(shard)
    if shard in index.lost_shards:
        return np.zeros(len(rows), np.bool_)
    pairs: Mask = rows.segments == 2  # a sample with a problem has one segment
    return pairs


class PairsOnce:
    """A single epoch of all pairs of an index in the order of their numbers, see `plan.Epochs`.

    Args:
        index: The samples; those that are no pairs are left out.
        sizes: How large they are.
        budgets: Of a pack.
        block: Pairs that are packed together.

    Attributes:
        samples: `[n]` numbers of the pairs that a pack can hold.
        others: Samples that are no pairs.
        refused: (sample, reason) of pairs that exceed a budget.

    Raises:
        DataError: There is no pair.
    """

    def __init__(self, index: Index, sizes: Sizes, budgets: Budgets, block: int = BLOCK) -> None:
        self.index, self.sizes, self.budgets, self.block_size = index, sizes, budgets, block
        self.refused: list[tuple[int, str]] = []
        self.others = 0
        found: list[Integers] = []
        for shard, first in enumerate(index.begins[:-1].tolist()):
            pairs = are_pairs(index, shard)
            tokens, tiles = sizes.largest(index.rows(shard))
            fit = budgets.fit(tokens, tiles)
            self.refused += [
                (first + sample, budgets.excess(int(tokens[sample]), int(tiles[sample])))
                for sample in np.flatnonzero(pairs & ~fit).tolist()
            ]
            found.append(first + np.flatnonzero(pairs & fit))
            self.others += int((~pairs).sum())
        self.samples: Integers = np.concatenate(found)
        if not len(self.samples):
            large = f", and {len(self.refused)} pairs exceed a budget of a pack" if self.refused else ""
            raise DataError(f"none of the {len(index)} samples of data.predict is a pair that can be used{large}")

    def blocks(self, epoch: int) -> int:
        """Number of blocks."""
        return -(-len(self.samples) // self.block_size)

    def block(self, epoch: int, number: int) -> Block:
        """One block of pairs."""
        samples = self.samples[number * self.block_size : (number + 1) * self.block_size]
        copies = np.zeros_like(samples)
        return Block(samples, copies, *self.sizes.of(self.index.take(samples), samples, copies, epoch))

    def fingerprint(self) -> str:
        """Short hash of which pairs there are."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()[:16]
