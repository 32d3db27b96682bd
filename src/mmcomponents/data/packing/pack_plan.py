"""Plan of the packs of an unlimited run: a pure function of (sizes, seed, epoch, number).

The packs of epoch e follow those of epoch e - 1, and each sample is in exactly one pack of every epoch. To resume, only
the number of packs used has to be stored; any rank or worker can compute any pack.

An epoch consists of blocks. Each block is packed separately when one of its packs is requested, see
`mmcomponents.data.packing.bin_packing`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass
from threading import RLock
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mmcomponents.data.format.columns import Integers
from mmcomponents.data.packing.balanced_packer import BalancedPacker
from mmcomponents.data.packing.base import Packer, Shares
from mmcomponents.data.packing.checked_packs import balanced_packs, checked_packs

VERSION = 3
"""Version of the packing algorithm, part of the fingerprint: plans of different versions are not equal."""
COUNTED_BLOCKS = 512
"""Maximum number of blocks of an epoch whose packs are counted exactly, at 0.03 to 0.15 s per block."""
SAMPLED_BLOCKS = 64
KEPT_BLOCKS = 64
BLOCK = 2048
"""Number of samples packed together. Larger blocks do not fill packs better, and the cost per block is quadratic."""


class Pack(NamedTuple):
    """A pack: its number in the run, its epoch, and the samples with their earlier occurrences and lengths."""

    number: int
    epoch: int
    samples: tuple[int, ...]
    copies: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()


class Block(NamedTuple):
    """Samples that are packed together.

    Attributes:
        samples: `[n]` sample numbers.
        copies: `[n]` numbers of earlier occurrences in the epoch.
        tokens: `[n]` numbers of tokens.
        tiles: `[n]` numbers of tiles.
    """

    samples: Integers
    copies: Integers
    tokens: Integers
    tiles: Integers


class Epochs(Protocol):
    """Input of a plan: the blocks of each epoch, computed on demand."""

    def blocks(self, epoch: int) -> int:
        """Returns the number of blocks of an epoch."""
        ...

    def block(self, epoch: int, number: int) -> Block:
        """Returns one block, whose samples do not exceed any budget."""
        ...

    def fingerprint(self) -> str:
        """Returns a short hash of everything that determines the blocks."""
        ...


@dataclass(frozen=True)
class Budgets:
    """Capacity of a pack.

    Attributes:
        tokens: Maximum number of tokens.
        tiles: Maximum number of tiles; None: no limit.

    Raises:
        ValueError: A budget is not positive.
    """

    tokens: int
    tiles: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or (self.tiles is not None and self.tiles < 1):
            raise ValueError(f"budgets must be positive: {self.tokens} tokens, {self.tiles} tiles")

    def fit(self, tokens: Integers, tiles: Integers) -> npt.NDArray[np.bool_]:
        """Returns an `[n]` mask of the samples that fit into a pack."""
        fit: npt.NDArray[np.bool_] = (tokens <= self.tokens) & (self.tiles is None or tiles <= self.tiles)
        return fit

    def shares(self, tokens: Integers, tiles: Integers) -> Shares:
        """Returns the `[n, 2]` shares of the two budgets that samples take."""
        most = self.tiles if self.tiles is not None else max(int(tiles.max(initial=0)), 1) * max(len(tiles), 1)
        return np.stack([tokens / self.tokens, tiles / most], 1)

    def excess(self, tokens: int, tiles: int) -> str:
        """Returns a message with the budgets that a sample exceeds, or ""."""
        found = (("tokens", tokens, self.tokens), ("tiles", tiles, self.tiles))
        over = [f"{size} {name}, a pack takes {most}" for name, size, most in found if most is not None and size > most]
        return "; ".join(over)


class Bookmark(NamedTuple):
    """Start of a block, from which a run resumes without planning earlier blocks."""

    epoch: int
    block: int
    pack: int


@dataclass
class _Walk:
    """Consecutively planned blocks of an epoch.

    Attributes:
        epoch: Epoch number.
        block: Number of the first block.
        begins: Number of the first pack of each block, and of the pack after the last block.
    """

    epoch: int
    block: int
    begins: list[int]


@dataclass
class _Planned:
    block: Block
    bins: list[list[int]]
    packs: list[list[int]] | None = None


class PackPlan:
    """Plan of the packs of a run.

    Args:
        epochs: Blocks to be packed.
        budgets: Capacity of a pack.
        seed: Seed of the order of packs.
        shuffle: Whether to shuffle the packs of a block.
        packer: Distributes the samples of a block over packs; None: `BalancedPacker`.
    """

    def __init__(
        self, epochs: Epochs, budgets: Budgets, seed: int, shuffle: bool = True, packer: Packer | None = None
    ) -> None:
        self.epochs, self.budgets, self.seed, self.shuffle = epochs, budgets, seed, shuffle
        self.packer = packer or BalancedPacker()
        # Computed before the packer is used, which may change what it holds, such as a cache.
        self._packer_name = "" if type(self.packer) is BalancedPacker else repr(self.packer)
        self._walks = [_Walk(0, 0, [0])]
        self._planned: OrderedDict[tuple[int, int], _Planned] = OrderedDict()
        self._lock = RLock()  # one thread plans ahead while another writes a checkpoint

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": RLock()}

    def pack(self, number: int) -> Pack:
        """Returns one pack of the run.

        Args:
            number: Number of the pack in the order of the run, from 0.
        """
        with self._lock:
            walk = self._walk_to(number)
            place = bisect_right(walk.begins, number) - 1
            block, packs = self.block_packs(walk.epoch, walk.block + place)
            chosen = packs[number - walk.begins[place]]
        columns = (tuple(column[chosen].tolist()) for column in (block.samples, block.copies, block.tokens))
        return Pack(number, walk.epoch, *columns)

    def packs_in_epoch(self, epoch: int) -> int:
        """Counts the packs of an epoch, which varies slightly between epochs, by planning all its blocks."""
        return self.first_pack(epoch + 1) - self.first_pack(epoch)

    def first_pack(self, epoch: int) -> int:
        """Returns the number of the first pack of an epoch, planning all blocks of earlier epochs once."""
        with self._lock:
            walk = max((w for w in self._walks if w.block == 0 and w.epoch <= epoch), key=lambda walk: walk.epoch)
            while walk.epoch < epoch:
                walk = self._step(walk)
            return walk.begins[0]

    def epoch_length(self) -> int:
        """Returns the number of packs of the first epoch, estimated from some of its blocks if there are many."""
        blocks = self.epochs.blocks(0)
        if blocks <= COUNTED_BLOCKS:
            return max(1, self.packs_in_epoch(0))  # a small fraction may leave an epoch empty
        some = np.linspace(0, blocks - 2, SAMPLED_BLOCKS).astype(np.int64).tolist()
        return round(blocks * sum(len(self._plan(0, number).bins) for number in some) / len(some))

    def bookmark(self, number: int) -> Bookmark:
        """Returns the start of the block of a pack."""
        with self._lock:
            walk = self._walk_to(number)
        place = bisect_right(walk.begins, number) - 1
        return Bookmark(walk.epoch, walk.block + place, walk.begins[place])

    def open_at(self, bookmark: Bookmark) -> None:
        """Resumes from a bookmark of an equal plan, see `fingerprint`."""
        with self._lock:
            walk = _Walk(bookmark.epoch, bookmark.block, [bookmark.pack])
            insort(self._walks, walk, key=lambda walk: walk.begins[0])

    def fingerprint(self) -> str:
        """Returns a short hash of everything that determines the plan; equal for equal plans."""
        digest = hashlib.sha256(self.epochs.fingerprint().encode())
        digest.update(repr((VERSION, self.budgets, self.seed, self.shuffle)).encode())
        digest.update(self._packer_name.encode())
        return digest.hexdigest()[:16]

    def _walk_to(self, number: int) -> _Walk:
        """Returns the walk that contains a pack, planned up to its block."""
        if number < 0:
            raise IndexError(f"packs are numbered from 0, not {number}")
        # The number of packs of a block is known only after it is packed. A pack is therefore found by walking from the
        # nearest known start: that of the run, of a bookmark, or of an epoch that was reached before.
        walk = self._walks[bisect_right(self._walks, number, key=lambda walk: walk.begins[0]) - 1]
        while number >= walk.begins[-1]:
            walk = self._step(walk)
        return walk

    def _step(self, walk: _Walk) -> _Walk:
        """Plans one more block, or starts the next epoch."""
        block = walk.block + len(walk.begins) - 1
        if block < self.epochs.blocks(walk.epoch):
            walk.begins.append(walk.begins[-1] + len(self._plan(walk.epoch, block).bins))
            return walk
        following = _Walk(walk.epoch + 1, 0, [walk.begins[-1]])
        insort(self._walks, following, key=lambda walk: walk.begins[0])
        return following

    def _plan(self, epoch: int, number: int) -> _Planned:
        """Packs a block as far as necessary to determine its number of packs."""
        planned = self._planned.get((epoch, number))
        if planned is None:
            block = self.epochs.block(epoch, number)
            sizes = self.budgets.shares(block.tokens, block.tiles)
            planned = _Planned(block, checked_packs(self.packer, sizes) if len(sizes) else [])
            self._planned[epoch, number] = planned
            while len(self._planned) > KEPT_BLOCKS:
                self._planned.popitem(last=False)
        return planned

    def block_packs(self, epoch: int, number: int) -> tuple[Block, list[list[int]]]:
        """Returns a block and its packs, balanced and in their final order."""
        with self._lock:
            return self._block_packs(epoch, number)

    def _block_packs(self, epoch: int, number: int) -> tuple[Block, list[list[int]]]:
        planned = self._plan(epoch, number)
        if not planned.bins:
            return planned.block, []
        # Balancing does not change the number of packs: blocks that are only walked over do without it.
        if planned.packs is None:
            sizes = self.budgets.shares(planned.block.tokens, planned.block.tiles)
            # Samples keep the order of the (shuffled) block, packs are shuffled: no order depends on sizes.
            packs = sorted(sorted(pack) for pack in balanced_packs(self.packer, sizes, planned.bins))
            if self.shuffle:
                order = np.random.default_rng((self.seed, epoch, number, 1)).permutation(len(packs))
                packs = [packs[place] for place in order.tolist()]
            planned.packs = packs
        return planned.block, planned.packs
