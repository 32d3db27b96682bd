"""Which samples share a pack, for every pack of an endless run: a pure function of (sizes, seed, epoch, number).

The packs of epoch e follow those of epoch e - 1, and each sample is in exactly one pack of every epoch. Nothing has to
be remembered to go on after an interruption but the number of packs used; any rank or worker can ask for any pack.

An epoch consists of blocks, and each block is packed by itself, when one of its packs is asked for, see
`mmcomponents.data.packing`.
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

from mmcomponents.data.packing import Shares, even_out, pack_block
from mmcomponents.data.rows import Integers

VERSION = 3  # of the rule by which samples share packs
COUNTED_BLOCKS = 512
"""Blocks of an epoch of which the packs are counted one by one, which takes 0.03 to 0.15 s for each."""
SAMPLED_BLOCKS = 64
KEPT_BLOCKS = 64
BLOCK = 2048
"""Samples that are packed together. Larger blocks fill packs no better; the work for one grows with its square."""


class Pack(NamedTuple):
    """One pack: its number in the run, its epoch, its samples, how often each came before, and how long each is."""

    number: int
    epoch: int
    samples: tuple[int, ...]
    copies: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()


class Block(NamedTuple):
    """Samples that are packed together.

    Attributes:
        samples: `[n]` their numbers.
        copies: `[n]` how many times each came up in the epoch before.
        tokens: `[n]` tokens of each.
        tiles: `[n]` tiles of each.
    """

    samples: Integers
    copies: Integers
    tokens: Integers
    tiles: Integers


class Epochs(Protocol):
    """What is packed: for each epoch a number of blocks, each computed when it is asked for."""

    def blocks(self, epoch: int) -> int:
        """Number of blocks of an epoch."""
        ...

    def block(self, epoch: int, number: int) -> Block:
        """One block; none of its samples exceeds a budget."""
        ...

    def fingerprint(self) -> str:
        """Short hash of all that the blocks follow from."""
        ...


@dataclass(frozen=True)
class Budgets:
    """What a pack can hold.

    Attributes:
        tokens: Most tokens.
        tiles: Most tiles; None: no limit.
    """

    tokens: int
    tiles: int | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or (self.tiles is not None and self.tiles < 1):
            raise ValueError(f"budgets must be positive: {self.tokens} tokens, {self.tiles} tiles")

    def fit(self, tokens: Integers, tiles: Integers) -> npt.NDArray[np.bool_]:
        """Which samples a pack can hold, `[n]`."""
        fit: npt.NDArray[np.bool_] = (tokens <= self.tokens) & (self.tiles is None or tiles <= self.tiles)
        return fit

    def shares(self, tokens: Integers, tiles: Integers) -> Shares:
        """Shares of the two budgets that samples take, `[n, 2]`."""
        most = self.tiles if self.tiles is not None else max(int(tiles.max(initial=0)), 1) * max(len(tiles), 1)
        return np.stack([tokens / self.tokens, tiles / most], 1)

    def excess(self, tokens: int, tiles: int) -> str:
        """Says what a sample has too much of."""
        found = (("tokens", tokens, self.tokens), ("tiles", tiles, self.tiles))
        over = [f"{size} {name}, a pack takes {most}" for name, size, most in found if most is not None and size > most]
        return "; ".join(over)


class Bookmark(NamedTuple):
    """Where a block begins: with it a run goes on without planning what came before."""

    epoch: int
    block: int
    pack: int


@dataclass
class _Walk:
    """Blocks of an epoch that are planned one after the other.

    Attributes:
        epoch: Number of the epoch.
        block: Number of the first of them.
        begins: Number of the first pack of each, and of the one behind them.
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
    """The plan of a run.

    Args:
        epochs: What is packed.
        budgets: What a pack can hold.
        seed: Of the order of packs.
        shuffle: Whether the packs of a block are put into a random order.
    """

    def __init__(self, epochs: Epochs, budgets: Budgets, seed: int, shuffle: bool = True) -> None:
        self.epochs, self.budgets, self.seed, self.shuffle = epochs, budgets, seed, shuffle
        self._walks = [_Walk(0, 0, [0])]
        self._planned: OrderedDict[tuple[int, int], _Planned] = OrderedDict()
        self._lock = RLock()  # a thread plans ahead while another writes a checkpoint

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": RLock()}

    def pack(self, number: int) -> Pack:
        """Returns one pack of the endless run.

        Args:
            number: 0, 1, 2, …
        """
        with self._lock:
            walk = self._walk_to(number)
            place = bisect_right(walk.begins, number) - 1
            block, packs = self.block_packs(walk.epoch, walk.block + place)
            chosen = packs[number - walk.begins[place]]
        columns = (tuple(column[chosen].tolist()) for column in (block.samples, block.copies, block.tokens))
        return Pack(number, walk.epoch, *columns)

    def packs_in_epoch(self, epoch: int) -> int:
        """Number of packs of an epoch; it differs a little between epochs. All its blocks are planned for that."""
        return self.first_pack(epoch + 1) - self.first_pack(epoch)

    def first_pack(self, epoch: int) -> int:
        """Number of the first pack of an epoch. All blocks of earlier epochs are planned once to count them."""
        with self._lock:
            walk = max((w for w in self._walks if w.block == 0 and w.epoch <= epoch), key=lambda walk: walk.epoch)
            while walk.epoch < epoch:
                walk = self._step(walk)
            return walk.begins[0]

    def epoch_length(self) -> int:
        """Packs of the first epoch: counted, or where it has very many blocks estimated from some of them."""
        blocks = self.epochs.blocks(0)
        if blocks <= COUNTED_BLOCKS:
            return max(1, self.packs_in_epoch(0))  # a small fraction may leave an epoch empty
        some = np.linspace(0, blocks - 2, SAMPLED_BLOCKS).astype(np.int64).tolist()
        return round(blocks * sum(len(self._plan(0, number).bins) for number in some) / len(some))

    def bookmark(self, number: int) -> Bookmark:
        """Where the block of a pack begins."""
        with self._lock:
            walk = self._walk_to(number)
        place = bisect_right(walk.begins, number) - 1
        return Bookmark(walk.epoch, walk.block + place, walk.begins[place])

    def open_at(self, bookmark: Bookmark) -> None:
        """Plans on from a bookmark of an equal plan, see `fingerprint`."""
        with self._lock:
            walk = _Walk(bookmark.epoch, bookmark.block, [bookmark.pack])
            insort(self._walks, walk, key=lambda walk: walk.begins[0])

    def fingerprint(self) -> str:
        """Short hash of all that the plan follows from: equal for equal plans."""
        digest = hashlib.sha256(self.epochs.fingerprint().encode())
        digest.update(repr((VERSION, self.budgets, self.seed, self.shuffle)).encode())
        return digest.hexdigest()[:16]

    def _walk_to(self, number: int) -> _Walk:
        """The walk with the block of a pack, planned as far as that."""
        if number < 0:
            raise IndexError(f"packs are numbered from 0, not {number}")
        walk = self._walks[bisect_right(self._walks, number, key=lambda walk: walk.begins[0]) - 1]
        while number >= walk.begins[-1]:
            walk = self._step(walk)
        return walk

    def _step(self, walk: _Walk) -> _Walk:
        """Plans one block more, or goes over to the next epoch."""
        block = walk.block + len(walk.begins) - 1
        if block < self.epochs.blocks(walk.epoch):
            walk.begins.append(walk.begins[-1] + len(self._plan(walk.epoch, block).bins))
            return walk
        following = _Walk(walk.epoch + 1, 0, [walk.begins[-1]])
        insort(self._walks, following, key=lambda walk: walk.begins[0])
        return following

    def _plan(self, epoch: int, number: int) -> _Planned:
        """Packs a block, as far as that is needed to know how many packs it has."""
        planned = self._planned.get((epoch, number))
        if planned is None:
            block = self.epochs.block(epoch, number)
            sizes = self.budgets.shares(block.tokens, block.tiles)
            planned = _Planned(block, pack_block(sizes) if len(sizes) else [])
            self._planned[epoch, number] = planned
            while len(self._planned) > KEPT_BLOCKS:
                self._planned.popitem(last=False)
        return planned

    def block_packs(self, epoch: int, number: int) -> tuple[Block, list[list[int]]]:
        """A block and its packs, made alike and put in order."""
        with self._lock:
            return self._block_packs(epoch, number)

    def _block_packs(self, epoch: int, number: int) -> tuple[Block, list[list[int]]]:
        planned = self._plan(epoch, number)
        if not planned.bins:
            return planned.block, []
        if planned.packs is None:
            sizes = self.budgets.shares(planned.block.tokens, planned.block.tiles)
            # Inside a pack the order of the (shuffled) block, among packs a drawn one: sizes leave no trace.
            packs = sorted(sorted(pack) for pack in even_out(sizes, planned.bins))
            if self.shuffle:
                order = np.random.default_rng((self.seed, epoch, number, 1)).permutation(len(packs))
                packs = [packs[place] for place in order.tolist()]
            planned.packs = packs
        return planned.block, planned.packs
