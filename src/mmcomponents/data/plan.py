"""Which samples share a pack, for every pack of an endless run: a pure function of (sizes, seed, epoch, number).

The packs of epoch e follow those of epoch e - 1, and each sample is in exactly one pack of every epoch. Nothing has to
be remembered to go on after an interruption but the number of packs used; any rank or worker can ask for any pack.

An epoch is shuffled, cut into blocks, and each block is packed by itself, with two budgets, tokens and image tiles:
once by best fit decreasing, once by filling one pack after the other, and the better of both says how many packs it
takes. Where they fit, the samples are then dealt out evenly over as many. A sample is never cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

BLOCK = 2048
"""Samples that are packed together. Larger blocks fill packs no better; the work for one grows with its square."""


class Pack(NamedTuple):
    """One pack: its number in the run, its epoch, and the numbers of its samples."""

    number: int
    epoch: int
    samples: tuple[int, ...]


@dataclass(frozen=True)
class _Epoch:
    samples: Integers  # all samples of the epoch, pack by pack
    begins: Integers  # [packs + 1] where each pack begins in `samples`

    @property
    def packs(self) -> int:
        return len(self.begins) - 1


_SLACK = 1e-9
"""Shares of a budget are fractions: what fills one exactly must still fit."""


def best_fit(sizes: npt.NDArray[np.float64]) -> list[list[int]]:
    """Best fit decreasing: largest items first, each into the bin where it leaves the least room.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.

    Returns:
        Item numbers of each bin.
    """
    room = np.empty((len(sizes), 2))
    bins: list[list[int]] = []
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = room[: len(bins)] - sizes[item]
        fits = np.flatnonzero((left >= -_SLACK).all(1))
        if len(fits):
            remaining = left[fits]
            # the scarcer budget of the bin decides, the other one breaks ties
            chosen = int(fits[np.argmin(remaining.min(1) + 1e-3 * remaining.sum(1))])
            bins[chosen].append(item)
            room[chosen] = left[chosen]
        else:
            room[len(bins)] = 1.0 - sizes[item]
            bins.append([item])
    return bins


def fill_in_turn(sizes: npt.NDArray[np.float64], candidates: int = 128, full: float = 0.02) -> list[list[int]]:
    """Fills one bin after the other: the largest items first, then the two that fill it up best.

    Better than best fit where few large items share a bin, since it looks for the pair that ends without a gap.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.
        candidates: Most items that are tried as halves of a pair.
        full: Share of the budget that a pair may leave empty.

    Returns:
        Item numbers of each bin.
    """
    scarce = int(np.argmax(sizes.sum(0)))  # the budget that decides how many bins are needed
    left = np.lexsort((-sizes.sum(1), -sizes[:, scarce]))
    bins: list[list[int]] = []
    while len(left):
        chosen, room = [int(left[0])], 1.0 - sizes[left[0]]
        left = left[1:]
        while len(fits := left[(sizes[left] <= room + _SLACK).all(1)]):
            items = _closing_pair(sizes, fits, room, scarce, candidates, full) or [int(fits[0])]
            chosen += items
            room = room - sizes[items].sum(0)
            left = left[~np.isin(left, items)]
        bins.append(chosen)
    return bins


def _closing_pair(
    sizes: npt.NDArray[np.float64],
    fits: Integers,
    room: npt.NDArray[np.float64],
    scarce: int,
    candidates: int,
    full: float,
) -> list[int] | None:
    """Two of the items that fit (largest first), if they fill the bin better than the largest alone."""
    gap = room[scarce] - sizes[fits[0], scarce]
    if len(fits) < 2 or gap - sizes[fits[1], scarce] > full:  # even the two largest leave too much
        return None
    if len(fits) > candidates:
        fits = fits[np.linspace(0, len(fits) - 1, candidates).astype(np.int64)]
    after = room - (sizes[fits][:, None] + sizes[fits][None])  # [m, m, 2]
    possible = np.triu((after >= -_SLACK).all(-1), 1)
    gaps = np.where(possible, after[..., scarce], np.inf)
    first, second = divmod(int(np.argmin(gaps)), len(fits))
    if gaps[first, second] >= min(full, gap):
        return None
    return [int(fits[first]), int(fits[second])]


def spread(sizes: npt.NDArray[np.float64], count: int) -> list[list[int]] | None:
    """Deals items out to a number of bins so that all bins bear alike: largest first, each to the lightest bin.

    What is packed tightly is sorted as well: some packs hold large samples alone and others small ones alone, so steps
    differ in cost and their gradients in kind. Dealt out, each pack is a fair sample of its block.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.
        count: Number of bins.

    Returns:
        Item numbers of each bin; None where some item found no room.
    """
    room = np.ones((count, 2))
    bins: list[list[int]] = [[] for _ in range(count)]
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = room - sizes[item]
        fits = (left >= -_SLACK).all(1)
        if not fits.any():
            return None
        chosen = int(np.argmax(np.where(fits, left.sum(1), -np.inf)))
        bins[chosen].append(item)
        room[chosen] = left[chosen]
    return bins


class PackPlan:
    """The plan of a run.

    Args:
        tokens: `[n]` tokens of each sample.
        tiles: `[n]` image tiles of each sample.
        token_budget: Most tokens of a pack.
        tile_budget: Most tiles of a pack; None: no limit.
        seed: Of the shuffling.
        block: Samples that are packed together.
        shuffle: False keeps the order of the samples when they are cut into blocks, the same in every epoch.

    Attributes:
        sizes: `[n, 2]` shares of the two budgets that each sample takes.
        refused: (sample, reason) of the samples that exceed a budget by themselves, and so are in no pack.

    Raises:
        ValueError: No sample is left.
    """

    def __init__(
        self,
        tokens: Sequence[int] | npt.NDArray[Any],
        tiles: Sequence[int] | npt.NDArray[Any],
        token_budget: int,
        tile_budget: int | None,
        seed: int,
        block: int = BLOCK,
        shuffle: bool = True,
    ) -> None:
        token_counts, tile_counts = np.asarray(tokens, np.int64), np.asarray(tiles, np.int64)
        if token_counts.shape != tile_counts.shape or token_counts.ndim != 1:
            raise ValueError(f"tokens {token_counts.shape} and tiles {tile_counts.shape} must be one number a sample")
        if token_budget < 1 or block < 1 or (tile_budget is not None and tile_budget < 1):
            raise ValueError(f"budgets must be positive: {token_budget} tokens, {tile_budget} tiles, block {block}")
        most_tiles = max(int(tile_counts.max(initial=0)), 1) * max(len(tile_counts), 1)
        tile_budget = most_tiles if tile_budget is None else tile_budget
        self.seed, self.block, self.shuffle = seed, block, shuffle
        self.refused: list[tuple[int, str]] = []
        budgets = (("tokens", token_counts, token_budget), ("tiles", tile_counts, tile_budget))
        for sample in np.flatnonzero((token_counts > token_budget) | (tile_counts > tile_budget)).tolist():
            over = [
                f"{counts[sample]} {name}, a pack takes {most}"
                for name, counts, most in budgets
                if counts[sample] > most
            ]
            self.refused.append((sample, "; ".join(over)))
        self._kept = np.setdiff1d(np.arange(len(token_counts)), [sample for sample, _ in self.refused]).astype(np.int64)
        if not len(self._kept):
            raise ValueError(f"no sample is left of {len(token_counts)}: {len(self.refused)} exceed a budget of a pack")
        self.sizes = np.stack([token_counts / token_budget, tile_counts / tile_budget], 1)
        self._first_pack = [0]  # number of the first pack of each epoch seen so far
        self._epochs: dict[int, _Epoch] = {}  # the last two that were asked for

    def pack(self, number: int) -> Pack:
        """Returns one pack of the endless run.

        Args:
            number: 0, 1, 2, …
        """
        if number < 0:
            raise IndexError(f"packs are numbered from 0, not {number}")
        epoch = int(np.searchsorted(self._first_pack, number, side="right")) - 1
        while number >= self.first_pack(epoch + 1):
            epoch += 1
        plan, place = self._epoch(epoch), number - self.first_pack(epoch)
        samples = plan.samples[plan.begins[place] : plan.begins[place + 1]]
        return Pack(number, epoch, tuple(samples.tolist()))

    def packs_in_epoch(self, epoch: int) -> int:
        """Number of packs of an epoch; it differs a little between epochs."""
        return self.first_pack(epoch + 1) - self.first_pack(epoch)

    def first_pack(self, epoch: int) -> int:
        """Number of the first pack of an epoch. Earlier epochs are planned once to count them."""
        while len(self._first_pack) <= epoch:
            self._first_pack.append(self._first_pack[-1] + self._epoch(len(self._first_pack) - 1).packs)
        return self._first_pack[epoch]

    def fingerprint(self) -> str:
        """Short hash of all that the plan follows from: equal for equal plans."""
        digest = hashlib.sha256(self.sizes.tobytes())
        digest.update(repr((self.seed, self.block, self.shuffle)).encode())
        return digest.hexdigest()[:16]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = self._plan_epoch(epoch)
        return self._epochs[epoch]

    def _plan_epoch(self, epoch: int) -> _Epoch:
        generator = np.random.default_rng((self.seed, epoch))
        kept = generator.permutation(self._kept) if self.shuffle else self._kept
        packs: list[Integers] = []
        for begin in range(0, len(kept), self.block):
            block = kept[begin : begin + self.block]
            planned = self._plan_block(block)
            order = generator.permutation(len(planned)) if self.shuffle else np.arange(len(planned))
            packs += [block[planned[pack]] for pack in order]
        return _Epoch(np.concatenate(packs), np.cumsum([0, *map(len, packs)]))

    def _plan_block(self, block: Integers) -> list[list[int]]:
        sizes = self.sizes[block]
        best = min([fill_in_turn(sizes), best_fit(sizes)], key=len)
        # One pack more in fifty is a fair price for packs that are alike.
        more = spread(sizes, len(best) + 1) if len(best) >= 50 else None
        best = spread(sizes, len(best)) or more or best
        # Inside a pack, and among packs, the order of the (shuffled) block: sizes leave no trace.
        return sorted(sorted(pack) for pack in best)
