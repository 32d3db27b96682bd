"""What an epoch consists of: which samples, how many times each, and in which blocks they are packed.

Samples fall into groups: one for each source, and where a token share is asked for, one for its text and one for its
multimodal samples. Each group is seen a number of times an epoch, which need not be whole: of the rest, a fraction
drawn by the seed is seen once more, and the next epoch goes on with the others. Every block holds its share of each
group.

An epoch is never listed: a block is computed when it is asked for, so memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.groups import Group, Groups
from mmcomponents.data.index import Index
from mmcomponents.data.order import LEAST_WINDOW, WINDOW, Order
from mmcomponents.data.plan import BLOCK, Block, Budgets
from mmcomponents.data.reasons import kind_of
from mmcomponents.data.rows import Integers
from mmcomponents.data.sizes import Sizes

logger = logging.getLogger(__name__)

_WEIGHED = 1_000_000
"""Samples of a fraction that are weighed one by one; of more than these, their number comes near enough."""
_REST = 1_000_000_007  # in the place of an epoch, for draws that outlive it


@dataclass(frozen=True)
class TokenShare:
    """In which ratio text and multimodal samples stand, counted in tokens over all positions.

    Native pre-training of InternVL3 takes 1 : 3 (arXiv 2504.10479, section 2.2). The side that has too few is repeated.

    Attributes:
        text: Parts of samples without images and videos.
        multimodal: Parts of the others.
    """

    text: float = 1.0
    multimodal: float = 3.0

    def check(self) -> None:
        """Makes sure that both parts are there.

        Raises:
            ValueError: One is not positive.
        """
        if not (0 < self.text < float("inf") and 0 < self.multimodal < float("inf")):
            raise ValueError(f"data.token_share has two positive parts, not {self.text:g} : {self.multimodal:g}")


@dataclass(frozen=True)
class Part:
    """How much of a group an epoch has.

    Attributes:
        passes: Times that each of its samples is seen.
        more: Samples that are seen once more.
        start: Where these begin in an order of their own.
        tokens: Of all of them; without a token share an estimate.
    """

    passes: int
    more: int
    start: int
    tokens: float


class GroupShare(NamedTuple):
    """What a group is of an epoch: its name, samples that can be used, passes over them, tokens of all passes."""

    name: str
    samples: int
    passes: float
    tokens: float


class Mixture:
    """The epochs over an index, see `Epochs`.

    Args:
        index: The samples.
        sizes: How large they are.
        budgets: Of a pack; a sample that exceeds one is refused.
        seed: Of the draws.
        repeats: Passes an epoch, by the number of the source; others have one.
        share: In which ratio text and multimodal tokens stand; None: as it comes.
        block: Samples that are packed together.
        shuffle: Whether the order is drawn.

    Attributes:
        refused: (sample, reason) of those that exceed a budget, in the order of their numbers.
        groups: What the samples fall into.

    Raises:
        DataError: No sample is left, or a side of the token share has none.
    """

    def __init__(
        self,
        index: Index,
        sizes: Sizes,
        budgets: Budgets,
        seed: int,
        repeats: Mapping[int, float] | None = None,
        share: TokenShare | None = None,
        block: int = BLOCK,
        shuffle: bool = True,
    ) -> None:
        self.index, self.sizes, self.budgets, self.seed = index, sizes, budgets, seed
        self.share, self.block_size, self.shuffle = share, block, shuffle
        # An order that is not drawn is that of the shards, which takes one group.
        self._found = Groups(index, sizes, budgets, repeats or {}, by_source=shuffle, by_text=share is not None)
        self.groups, self.refused = self._found.groups, self._found.refused
        settings = (self._found.digest, seed, block, shuffle, sorted((repeats or {}).items()), share, sizes.frames)
        self._digest = hashlib.sha256(repr(settings).encode()).hexdigest()
        if not self.groups:
            reasons = [*index.problems.values(), *index.lost_shards.values()]
            often = (
                f"none can be used, mostly: {Counter(map(kind_of, reasons)).most_common(1)[0][0]}"
                if reasons
                else "all left out"
            )
            left = f"{len(self.refused)} exceed a budget of a pack" if self.refused else often
            raise DataError(f"no sample is left of {len(index)}: {left}")
        self._parts: dict[int, list[Part]] = {}
        self._orders: dict[tuple[int, ...], Order] = {}
        for group, part in zip(self.groups, self.parts(0), strict=True):
            if part.passes != 1 or part.more:
                logger.info("%s: %.4g passes an epoch", self.describe(group), part.passes + part.more / group.samples)

    def describe(self, group: Group) -> str:
        """The name of a group: its source, and whether it is text or not where that counts."""
        source = "all sources" if group.source < 0 else self.index.sources[group.source] or "(no source)"
        return source if group.text is None else f"{source}, {'text' if group.text else 'multimodal'}"

    def parts(self, epoch: int) -> list[Part]:
        """How much of each group an epoch has."""
        if epoch not in self._parts:
            while len(self._parts) > 2:
                del self._parts[next(iter(self._parts))]
            plain = self.share is None
            self._parts[epoch] = [self._plain(group, epoch) for group in self.groups] if plain else self._shared(epoch)
        return self._parts[epoch]

    def shares(self, epoch: int = 0) -> list[GroupShare]:
        """What each group is of an epoch; tokens of videos as they are drawn when they first come up."""
        found = []
        for which, (group, part) in enumerate(zip(self.groups, self.parts(epoch), strict=True)):
            passes = part.passes + part.more / group.samples
            tokens = part.tokens if self.share is not None else passes * self._one_pass(which, epoch, 0)
            found.append(GroupShare(self.describe(group), group.samples, passes, tokens))
        return found

    def blocks(self, epoch: int) -> int:
        """Number of blocks of an epoch."""
        return -(-sum(self._entries(epoch)) // self.block_size)

    def block(self, epoch: int, number: int) -> Block:
        """The samples of one block of an epoch, and how large they are."""
        samples, copies = [], []
        blocks = self.blocks(epoch)
        for which, entries in enumerate(self._entries(epoch)):
            # Small groups would all end in the last block: each begins elsewhere.
            shift = which * blocks // len(self.groups)
            places = np.arange((entries * number + shift) // blocks, (entries * (number + 1) + shift) // blocks)
            found, copy = self._at(which, epoch, places)
            samples.append(found)
            copies.append(copy)
        every, times = np.concatenate(samples), np.concatenate(copies)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch, number)).permutation(len(every))
            every, times = every[order], times[order]
        tokens, tiles = self.sizes.of(self.index.take(every), every, times, epoch)
        return Block(every, times, tokens, tiles)

    def fingerprint(self) -> str:
        """Short hash of all that the epochs follow from."""
        return self._digest[:16]

    def _entries(self, epoch: int) -> list[int]:
        return [part.passes * g.samples + part.more for g, part in zip(self.groups, self.parts(epoch), strict=True)]

    def _at(self, which: int, epoch: int, places: Integers) -> tuple[Integers, Integers]:
        """Samples, and how often each came before, at some places of a group's part of an epoch."""
        group, part = self.groups[which], self.parts(epoch)[which]
        copies = places // group.samples
        found = np.empty_like(places)
        for copy in np.unique(copies).tolist():
            here = copies == copy
            inside = places[here] - copy * group.samples
            rest = copy == part.passes
            found[here] = self._rest(which, part.start, inside) if rest else self._pass(which, (epoch, copy), inside)
        return found, copies

    def _pass(self, which: int, key: tuple[int, int], places: Integers) -> Integers:
        order_key = (self.seed, which, *key)
        if order_key not in self._orders:
            while len(self._orders) > 4 * len(self.groups):
                del self._orders[next(iter(self._orders))]
            # The groups share the samples that are in use at a time.
            window = max(LEAST_WINDOW, WINDOW // len(self.groups))
            self._orders[order_key] = Order(self.groups[which].counts, order_key if self.shuffle else None, window)
        group = self.groups[which]
        shards, ranks = self._orders[order_key](places)
        found = np.empty_like(places)
        for shard in np.unique(shards).tolist():
            here = shards == shard
            found[here] = self._found.members(group, shard)[ranks[here]]
        return found

    def _rest(self, which: int, start: int, places: Integers) -> Integers:
        """The fraction of a group that is seen once more: it moves on through one order from epoch to epoch."""
        return self._pass(which, (_REST, 0), (start + places) % self.groups[which].samples)

    def _plain(self, group: Group, epoch: int) -> Part:
        start = _so_far(group, group.repeat, epoch)
        more = _so_far(group, group.repeat, epoch + 1) - start
        return Part(int(group.repeat), more, start, (int(group.repeat) + more / group.samples) * group.tokens)

    def _shared(self, epoch: int) -> list[Part]:
        """Fills the long side as the recipe says and the short side up to its share."""
        assert self.share is not None
        wanted = {True: self.share.text, False: self.share.multimodal}
        once = [group.repeat * self._one_pass(which, epoch, 0) for which, group in enumerate(self.groups)]
        have = {side: sum(n for n, g in zip(once, self.groups, strict=True) if g.text is side) for side in wanted}
        for side, name in ((True, "text"), (False, "multimodal")):
            if not have[side]:
                ratio = f"{self.share.text:g} : {self.share.multimodal:g}"
                raise DataError(f"a token share of {ratio} needs {name} samples; there are none")
        long = have[True] / wanted[True] >= have[False] / wanted[False]
        parts: dict[int, Part] = {}
        for which, group in enumerate(self.groups):
            if group.text is long:
                parts[which] = self._filled(which, epoch, once[which])
        target = sum(part.tokens for part in parts.values()) * wanted[not long] / wanted[long]
        # Samples are whole. What one group has too much or too little the next makes good, short samples last.
        short = [which for which, group in enumerate(self.groups) if group.text is not long]
        owed = 0.0
        for which in sorted(short, key=lambda which: -self.groups[which].tokens / self.groups[which].samples):
            goal = target * once[which] / have[not long]
            parts[which] = self._filled(which, epoch, max(0.0, goal + owed))
            owed += goal - parts[which].tokens
            if epoch == 0 and goal > once[which]:
                passes = goal / once[which] * self.groups[which].repeat
                logger.info("%s is repeated, about %.4g passes an epoch", self.describe(self.groups[which]), passes)
        return [parts[which] for which in range(len(self.groups))]

    def _filled(self, which: int, epoch: int, goal: float) -> Part:
        """As many passes over a group as stay below a number of tokens, and as many samples more as come nearest."""
        group, passes, tokens = self.groups[which], 0, 0.0
        while tokens + (one := self._one_pass(which, epoch, passes)) <= goal * (1 + 1e-12):
            tokens, passes = tokens + one, passes + 1
        share = (goal - tokens) / one
        start = _so_far(group, passes + share, epoch)
        if share * group.samples > _WEIGHED:
            return Part(passes, round(share * group.samples), start, goal)
        more, chunk = 0, 4096
        while more < group.samples and tokens < goal:
            places = np.arange(more, min(more + chunk, group.samples))
            running = tokens + np.cumsum(self._tokens(self._rest(which, start, places), passes, epoch))
            inside = int(np.searchsorted(running, goal, side="left"))
            if inside < len(running):  # this one passes the goal: with it or without, whichever is nearer
                before = float(running[inside - 1]) if inside else tokens
                nearer = float(running[inside]) - goal <= goal - before
                return Part(passes, more + inside + nearer, start, float(running[inside]) if nearer else before)
            more, tokens = more + len(places), float(running[-1])
        return Part(passes, more, start, tokens)

    def _one_pass(self, which: int, epoch: int, copy: int) -> float:
        """Tokens of one pass over a group, as its videos are drawn."""
        group = self.groups[which]
        if not group.videos:
            return float(group.tokens)
        total = 0
        for shard in np.flatnonzero(group.counts).tolist():
            samples = self._found.members(group, shard)
            total += int(self._tokens(samples, copy, epoch).sum())
        return float(total)

    def _tokens(self, samples: Integers, copy: int, epoch: int) -> Integers:
        return self.sizes.of(self.index.take(samples), samples, np.full(len(samples), copy), epoch)[0]


def _so_far(group: Group, repeat: float, epochs: int) -> int:
    """Samples of a group that were seen once more in some epochs: half of five are two in one, three in another."""
    return int(epochs * (repeat % 1.0) * group.samples + 1e-9)
