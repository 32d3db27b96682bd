"""Composition of an epoch: samples, their numbers of repetitions, and the blocks in which they are packed.

Each source is a group of samples; with a token share, its text and its multimodal samples are separate groups. The
number of passes over a group per epoch may be fractional: the fractional part is drawn by the seed, and the next epoch
continues with the remaining samples. Every block contains its share of each group.

An epoch is never materialised: blocks are computed on demand, so memory does not grow with the data.
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
from mmcomponents.data.format.columns import Integers
from mmcomponents.data.format.reasons import kind_of
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.packing.groups import Group, Groups
from mmcomponents.data.packing.order import LEAST_WINDOW, WINDOW, Order
from mmcomponents.data.packing.pack_plan import BLOCK, Block, Budgets
from mmcomponents.data.packing.sizes import Sizes

logger = logging.getLogger(__name__)

_WEIGHED = 1_000_000
"""Maximum number of samples in a fraction whose tokens are summed; above, their number is accurate enough."""
_REST = 1_000_000_007  # used as the epoch number for draws that continue across epochs


@dataclass(frozen=True)
class TokenShare:
    """Ratio of text to multimodal samples, counted in tokens over all positions.

    Native pre-training of InternVL3 uses 1 : 3 (arXiv 2504.10479, section 2.2). The side with too few tokens is
    repeated.

    Attributes:
        text: Parts of samples without images and videos.
        multimodal: Parts of the other samples.
    """

    text: float = 1.0
    multimodal: float = 3.0

    def check(self) -> None:
        """Validates both parts.

        Raises:
            ValueError: One is not positive.
        """
        if not (0 < self.text < float("inf") and 0 < self.multimodal < float("inf")):
            raise ValueError(f"data.token_share must have two positive parts, not {self.text:g} : {self.multimodal:g}")


@dataclass(frozen=True)
class Part:
    """Part of a group in an epoch.

    Attributes:
        passes: Number of complete passes.
        more: Number of samples used once more.
        start: Start of these samples in their separate order.
        tokens: Total number of tokens; an estimate without a token share.
    """

    passes: int
    more: int
    start: int
    tokens: float


class GroupShare(NamedTuple):
    """A group's share of an epoch: name, usable samples, passes over them, and tokens of all passes."""

    name: str
    samples: int
    passes: float
    tokens: float


class Mixture:
    """Epochs over an index, see `Epochs`.

    Args:
        index: Index of the samples.
        sizes: Sizes of the samples.
        budgets: Budgets of a pack; a sample that exceeds one is skipped.
        seed: Seed of the random choices.
        repeats: Passes per epoch by source number; 1 for the others.
        share: Ratio of text to multimodal tokens; None: that of the data.
        block: Number of samples that are packed together.
        shuffle: Whether to shuffle the samples.

    Attributes:
        refused: (sample, reason) of the samples that exceed a budget, in the order of their numbers.
        groups: Groups of the samples.

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
        # Without shuffling, the order is that of the shards, which requires a single group.
        self._found = Groups(index, sizes, budgets, repeats or {}, by_source=shuffle, by_text=share is not None)
        self.groups, self.refused = self._found.groups, self._found.refused
        settings = (self._found.digest, seed, block, shuffle, sorted((repeats or {}).items()), share, sizes.frames)
        self._digest = hashlib.sha256(repr(settings).encode()).hexdigest()
        if not self.groups:
            reasons = [*index.problems.values(), *index.lost_shards.values()]
            if self.refused:
                cause = f"{len(self.refused)} exceed a budget of a pack"
            elif reasons:
                mostly = Counter(map(kind_of, reasons)).most_common(1)[0][0]
                cause = f"none can be used, mostly: {next(reason for reason in reasons if kind_of(reason) == mostly)}"
            else:
                cause = "all are excluded"
            raise DataError(f"no sample is left of {len(index)}: {cause}")
        self._parts: dict[int, list[Part]] = {}
        self._orders: dict[tuple[int, ...], Order] = {}
        for group, part in zip(self.groups, self.parts(0), strict=True):
            if part.passes != 1 or part.more:
                logger.info("%s: %.4g passes per epoch", self.describe(group), part.passes + part.more / group.samples)

    def describe(self, group: Group) -> str:
        """Returns the name of a group: its source, and its modality if that is distinguished."""
        source = "all sources" if group.source < 0 else self.index.sources[group.source] or "(no source)"
        return source if group.text is None else f"{source}, {'text' if group.text else 'multimodal'}"

    def parts(self, epoch: int) -> list[Part]:
        """Returns the part of each group in an epoch."""
        if epoch not in self._parts:
            # Some epochs are kept, since reading ahead crosses from one into the next.
            while len(self._parts) > 2:
                del self._parts[next(iter(self._parts))]
            plain = self.share is None
            self._parts[epoch] = [self._plain(group, epoch) for group in self.groups] if plain else self._shared(epoch)
        return self._parts[epoch]

    def shares(self, epoch: int = 0) -> list[GroupShare]:
        """Returns each group's share of an epoch, with the tokens of videos as drawn for their first occurrence."""
        found = []
        for which, (group, part) in enumerate(zip(self.groups, self.parts(epoch), strict=True)):
            passes = part.passes + part.more / group.samples
            tokens = part.tokens if self.share is not None else passes * self._one_pass(which, epoch, 0)
            found.append(GroupShare(self.describe(group), group.samples, passes, tokens))
        return found

    def blocks(self, epoch: int) -> int:
        """Returns the number of blocks of an epoch."""
        return -(-sum(self._entries(epoch)) // self.block_size)

    def block(self, epoch: int, number: int) -> Block:
        """Returns the samples of one block of an epoch, with their sizes."""
        samples, copies = [], []
        blocks = self.blocks(epoch)
        for which, entries in enumerate(self._entries(epoch)):
            # Each group is shifted: otherwise all small groups would end up in the last block.
            shift = which * blocks // len(self.groups)
            # Boundaries in integers, each shared by two blocks: no entry is lost or used twice. The shift is less than
            # `blocks`, so that the first boundary is 0 and the last one `entries`.
            places = np.arange((entries * number + shift) // blocks, (entries * (number + 1) + shift) // blocks)
            found, copy = self._at(which, epoch, places)
            samples.append(found)
            copies.append(copy)
        all_samples, all_copies = np.concatenate(samples), np.concatenate(copies)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch, number)).permutation(len(all_samples))
            all_samples, all_copies = all_samples[order], all_copies[order]
        tokens, tiles = self.sizes.of(self.index.take(all_samples), all_samples, all_copies, epoch)
        return Block(all_samples, all_copies, tokens, tiles)

    def fingerprint(self) -> str:
        """Returns a short hash of everything that determines the epochs."""
        return self._digest[:16]

    def _entries(self, epoch: int) -> list[int]:
        return [part.passes * g.samples + part.more for g, part in zip(self.groups, self.parts(epoch), strict=True)]

    def _at(self, which: int, epoch: int, places: Integers) -> tuple[Integers, Integers]:
        """Returns the samples at positions of a group's part of an epoch, and their earlier occurrences."""
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
            # The groups share the budget of samples in use at a time.
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
        """Returns samples of the fractional pass, which continues through one order from epoch to epoch."""
        return self._pass(which, (_REST, 0), (start + places) % self.groups[which].samples)

    def _plain(self, group: Group, epoch: int) -> Part:
        start = _so_far(group, group.repeat, epoch)
        more = _so_far(group, group.repeat, epoch + 1) - start
        return Part(int(group.repeat), more, start, (int(group.repeat) + more / group.samples) * group.tokens)

    def _shared(self, epoch: int) -> list[Part]:
        """Repeats the larger side as set in the recipe and the smaller side up to its share."""
        assert self.share is not None
        wanted = {True: self.share.text, False: self.share.multimodal}
        once = [group.repeat * self._one_pass(which, epoch, 0) for which, group in enumerate(self.groups)]
        have = {side: sum(n for n, g in zip(once, self.groups, strict=True) if g.text is side) for side in wanted}
        for side, name in ((True, "text"), (False, "multimodal")):
            if not have[side]:
                ratio = f"{self.share.text:g} : {self.share.multimodal:g}"
                raise DataError(f"a token share of {ratio} needs {name} samples, the data has none")
        # The side with more tokens than its share sets the length of the epoch: all of its samples are used.
        long = have[True] / wanted[True] >= have[False] / wanted[False]
        parts: dict[int, Part] = {}
        for which, group in enumerate(self.groups):
            if group.text is long:
                parts[which] = self._filled(which, epoch, once[which])
        target = sum(part.tokens for part in parts.values()) * wanted[not long] / wanted[long]
        # Samples are not split. The next group compensates for each deviation; groups of short samples come last.
        short = [which for which, group in enumerate(self.groups) if group.text is not long]
        deficit = 0.0
        for which in sorted(short, key=lambda which: -self.groups[which].tokens / self.groups[which].samples):
            goal = target * once[which] / have[not long]
            parts[which] = self._filled(which, epoch, max(0.0, goal + deficit))
            deficit += goal - parts[which].tokens
            if epoch == 0 and goal > once[which]:
                passes = goal / once[which] * self.groups[which].repeat
                logger.info("%s is repeated, about %.4g passes per epoch", self.describe(self.groups[which]), passes)
        return [parts[which] for which in range(len(self.groups))]

    def _filled(self, which: int, epoch: int, goal: float) -> Part:
        """Returns the largest number of passes within a number of tokens, and the extra samples that come closest."""
        group, passes, tokens = self.groups[which], 0, 0.0
        # Each pass is summed on its own, since the frames drawn of a video, and so its tokens, differ between passes.
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
            if inside < len(running):  # this sample exceeds the goal: include it if that is closer
                before = float(running[inside - 1]) if inside else tokens
                nearer = float(running[inside]) - goal <= goal - before
                return Part(passes, more + inside + nearer, start, float(running[inside]) if nearer else before)
            more, tokens = more + len(places), float(running[-1])
        return Part(passes, more, start, tokens)

    def _one_pass(self, which: int, epoch: int, copy: int) -> float:
        """Returns the tokens of one pass over a group, with the drawn frames of its videos."""
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
    """Returns the number of extra samples of a group up to an epoch; half of five are two in one, three in another."""
    return int(epochs * (repeat % 1.0) * group.samples + 1e-9)
