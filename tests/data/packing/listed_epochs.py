"""Epochs over samples whose lengths are given by two arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmcomponents.data.format.columns import Column, Integers
from mmcomponents.data.packing.pack_plan import BLOCK, Block, Budgets


class ListedEpochs:
    """Each sample once an epoch, see `Epochs`.

    Args:
        tokens: `[n]` tokens of each sample.
        tiles: `[n]` image tiles of each sample.
        budgets: Of a pack.
        seed: Of the shuffling.
        block: Samples that are packed together.
        shuffle: False keeps the order of the samples, the same in every epoch.

    Attributes:
        refused: (sample, reason) of the samples that exceed a budget by themselves, and so are in no pack.

    Raises:
        ValueError: No sample is left.
    """

    def __init__(
        self,
        tokens: Sequence[int] | Column,
        tiles: Sequence[int] | Column,
        budgets: Budgets,
        seed: int,
        block: int = BLOCK,
        shuffle: bool = True,
    ) -> None:
        self.tokens, self.tiles = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
        if self.tokens.shape != self.tiles.shape or self.tokens.ndim != 1:
            raise ValueError(f"tokens {self.tokens.shape} and tiles {self.tiles.shape} must be one number a sample")
        if block < 1:
            raise ValueError(f"a block holds samples, not {block}")
        self.budgets, self.seed, self.block_size, self.shuffle = budgets, seed, block, shuffle
        fit: npt.NDArray[np.bool_] = budgets.fit(self.tokens, self.tiles)
        self.refused = [
            (sample, budgets.excess(int(self.tokens[sample]), int(self.tiles[sample])))
            for sample in np.flatnonzero(~fit).tolist()
        ]
        self._kept: Integers = np.flatnonzero(fit)
        if not len(self._kept):
            raise ValueError(f"no sample is left of {len(fit)}: {len(self.refused)} exceed a budget of a pack")

    def blocks(self, epoch: int) -> int:
        """Number of blocks of an epoch."""
        return -(-len(self._kept) // self.block_size)

    def block(self, epoch: int, number: int) -> Block:
        """One block of an epoch."""
        kept = np.random.default_rng((self.seed, epoch)).permutation(self._kept) if self.shuffle else self._kept
        samples = kept[number * self.block_size : (number + 1) * self.block_size]
        return Block(samples, np.zeros_like(samples), self.tokens[samples], self.tiles[samples])

    def fingerprint(self) -> str:
        """Short hash of all that the epochs follow from."""
        digest = hashlib.sha256(
            np.stack([self.tokens, self.tiles, np.isin(np.arange(len(self.tokens)), self._kept)]).tobytes()
        )
        digest.update(repr((self.seed, self.block_size, self.shuffle)).encode())
        return digest.hexdigest()[:16]
