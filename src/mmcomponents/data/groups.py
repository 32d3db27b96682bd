"""What the samples of an index fall into: one walk through it, which remembers sums and no samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmcomponents.data.index import Index
from mmcomponents.data.plan import Budgets
from mmcomponents.data.rows import Integers, Rows
from mmcomponents.data.sizes import Sizes

Mask = npt.NDArray[np.bool_]

GroupKey = tuple[int, bool | None]
"""(number of the source or -1, whether text or None)."""


@dataclass(frozen=True)
class Group:
    """Samples that are seen equally often.

    Attributes:
        source: Number of the source; -1: of all sources.
        text: Whether they are without images and videos; None: where that plays no part.
        counts: `[shards]` samples that can be used.
        tokens: Of one pass over them, with the most frames that their videos can get.
        repeat: Passes an epoch that the recipe asks for.
        videos: Whether some have videos, so that their sizes differ from epoch to epoch.
    """

    source: int
    text: bool | None
    counts: Integers
    tokens: int
    repeat: float
    videos: bool

    @property
    def samples(self) -> int:
        """Samples that can be used."""
        return int(self.counts.sum())


class Groups:
    """The groups of an index.

    Args:
        index: The samples.
        sizes: How large they are.
        budgets: Of a pack; a sample that exceeds one is refused.
        repeats: Passes an epoch, by the number of the source; others have one.
        by_source: Whether each source is a group.
        by_text: Whether text and multimodal samples are groups.

    Attributes:
        groups: In the order of their sources, multimodal before text.
        refused: (sample, reason) of those that exceed a budget, in the order of their numbers.
        digest: Hash of all sizes, sources and problems.
    """

    def __init__(
        self, index: Index, sizes: Sizes, budgets: Budgets, repeats: Mapping[int, float], by_source: bool, by_text: bool
    ) -> None:
        self.index, self.sizes, self.budgets = index, sizes, budgets
        self.repeats, self.by_source, self.by_text = repeats, by_source, by_text
        self.refused: list[tuple[int, str]] = []
        self.groups, self.digest = self._survey()
        # A cache of this object alone: as a method's it would keep the object alive.
        self._members = lru_cache(maxsize=1024)(self._find_members)

    def members(self, group: Group, shard: int) -> Integers:
        """Samples of a group in a shard, by their numbers in the run."""
        inside: Integers = self.index.begins[shard] + self._members(shard)[group.source, group.text]
        return inside

    def _survey(self) -> tuple[list[Group], str]:
        """Walks through the index once, shard by shard."""
        digest = hashlib.sha256()
        counts: dict[GroupKey, Integers] = {}
        tokens: dict[GroupKey, int] = {}
        moving: set[GroupKey] = set()
        for shard in range(len(self.index.shards)):
            rows = self.index.rows(shard)
            usable, sizes = self._usable(shard, rows)
            first = int(self.index.begins[shard])
            for sample in np.flatnonzero(~self.budgets.fit(*sizes) & ~self._problems(shard)).tolist():
                self.refused.append((first + sample, self.budgets.excess(int(sizes[0][sample]), int(sizes[1][sample]))))
            digest.update(np.stack([*sizes, rows.source, usable]).tobytes())
            for key, members in self._groups_of(rows, usable).items():
                counts.setdefault(key, np.zeros(len(self.index.shards), np.int64))[shard] = len(members)
                tokens[key] = tokens.get(key, 0) + int(sizes[0][members].sum())
                if rows.videos[members].any():
                    moving.add(key)
        groups = []
        for key in sorted(counts, key=lambda key: (key[0], bool(key[1]))):
            if repeat := self.repeats.get(key[0], 1.0):
                groups.append(Group(*key, counts[key], tokens[key], repeat, key in moving))
        return groups, digest.hexdigest()

    def _problems(self, shard: int) -> Mask:
        begin, end = self.index.begins[shard : shard + 2].tolist()
        bad = np.full(end - begin, shard in self.index.lost_shards)
        bad[[number for number in range(end - begin) if begin + number in self.index.problems]] = True
        return bad

    def _usable(self, shard: int, rows: Rows) -> tuple[Mask, tuple[Integers, Integers]]:
        sizes = self.sizes.largest(rows)
        return self.budgets.fit(*sizes) & ~self._problems(shard), sizes

    def _groups_of(self, rows: Rows, usable: Mask) -> dict[GroupKey, Integers]:
        """The samples of a shard that can be used, by (source, text)."""
        source = rows.source if self.by_source else np.full(len(rows), -1)
        text = (rows.images == 0) & (rows.videos == 0)
        groups: dict[GroupKey, Integers] = {}
        for number in np.unique(source[usable]).tolist():
            for side in (True, False) if self.by_text else (None,):
                members = np.flatnonzero(usable & (source == number) & (True if side is None else text == side))
                if len(members):
                    groups[number, side] = members
        return groups

    def _find_members(self, shard: int) -> dict[GroupKey, Integers]:
        rows = self.index.rows(shard)
        return self._groups_of(rows, self._usable(shard, rows)[0])
