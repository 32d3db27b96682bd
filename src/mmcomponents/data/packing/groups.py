"""Groups of the samples of an index by source and modality, computed in one pass that stores only sums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mmcomponents.data.format.columns import Columns, Integers
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.packing.pack_plan import Budgets
from mmcomponents.data.packing.sizes import Sizes

Mask = npt.NDArray[np.bool_]

GroupKey = tuple[int, bool | None]
"""(source number or -1, whether text-only or None)."""


@dataclass(frozen=True)
class Group:
    """Samples that are repeated equally often.

    Attributes:
        source: Source number; -1: all sources.
        text: Whether the samples have neither images nor videos; None: not distinguished.
        counts: `[shards]` numbers of usable samples.
        tokens: Number of tokens of one pass, with the maximum number of frames for each video.
        repeat: Passes per epoch set in the recipe.
        videos: Whether some samples have videos, whose sizes differ from epoch to epoch.
    """

    source: int
    text: bool | None
    counts: Integers
    tokens: int
    repeat: float
    videos: bool

    @property
    def samples(self) -> int:
        """Number of usable samples."""
        return int(self.counts.sum())


class Groups:
    """Groups of the samples of an index.

    Args:
        index: Index of the samples.
        sizes: Sizes of the samples.
        budgets: Budgets of a pack; a sample that exceeds one is skipped.
        repeats: Passes per epoch by source number; 1 for the others.
        by_source: Whether to group by source.
        by_text: Whether to separate text-only and multimodal samples.

    Attributes:
        groups: Groups in the order of their sources, multimodal before text.
        refused: (sample, reason) of the samples that exceed a budget, in the order of their numbers.
        digest: Hash of all sizes, sources and problems.
    """

    def __init__(
        self, index: Index, sizes: Sizes, budgets: Budgets, repeats: Mapping[int, float], by_source: bool, by_text: bool
    ) -> None:
        self.index, self.sizes, self.budgets = index, sizes, budgets
        self.repeats, self.by_source, self.by_text = repeats, by_source, by_text
        self.refused: list[tuple[int, str]] = []
        self.groups, self.digest = self._survey()
        # A cache per object: a cache on the method would keep the object alive.
        self._members = lru_cache(maxsize=1024)(self._find_members)

    def members(self, group: Group, shard: int) -> Integers:
        """Returns the sample numbers of a group in a shard."""
        inside: Integers = self.index.begins[shard] + self._members(shard)[group.source, group.text]
        return inside

    def _survey(self) -> tuple[list[Group], str]:
        """Computes groups and digest in one pass over the shards."""
        digest = hashlib.sha256()
        counts: dict[GroupKey, Integers] = {}
        tokens: dict[GroupKey, int] = {}
        with_videos: set[GroupKey] = set()
        for shard in range(len(self.index.shards)):
            columns = self.index.columns(shard)
            usable, sizes = self._usable(shard, columns)
            first = int(self.index.begins[shard])
            for sample in np.flatnonzero(~self.budgets.fit(*sizes) & ~self._problems(shard)).tolist():
                self.refused.append((first + sample, self.budgets.excess(int(sizes[0][sample]), int(sizes[1][sample]))))
            digest.update(np.stack([*sizes, columns.source, usable]).tobytes())
            for key, members in self._groups_of(columns, usable).items():
                counts.setdefault(key, np.zeros(len(self.index.shards), np.int64))[shard] = len(members)
                tokens[key] = tokens.get(key, 0) + int(sizes[0][members].sum())
                if columns.videos[members].any():
                    with_videos.add(key)
        groups = []
        for key in sorted(counts, key=lambda key: (key[0], bool(key[1]))):
            if repeat := self.repeats.get(key[0], 1.0):
                groups.append(Group(*key, counts[key], tokens[key], repeat, key in with_videos))
        return groups, digest.hexdigest()

    def _problems(self, shard: int) -> Mask:
        begin, end = self.index.begins[shard : shard + 2].tolist()
        bad = np.full(end - begin, shard in self.index.lost_shards)
        bad[[number for number in range(end - begin) if begin + number in self.index.problems]] = True
        return bad

    def _usable(self, shard: int, columns: Columns) -> tuple[Mask, tuple[Integers, Integers]]:
        sizes = self.sizes.largest(columns)
        return self.budgets.fit(*sizes) & ~self._problems(shard), sizes

    def _groups_of(self, columns: Columns, usable: Mask) -> dict[GroupKey, Integers]:
        """Returns the usable samples of a shard by (source, text)."""
        source = columns.source if self.by_source else np.full(len(columns), -1)
        text = (columns.images == 0) & (columns.videos == 0)
        groups: dict[GroupKey, Integers] = {}
        for number in np.unique(source[usable]).tolist():
            for side in (True, False) if self.by_text else (None,):
                members = np.flatnonzero(usable & (source == number) & (True if side is None else text == side))
                if len(members):
                    groups[number, side] = members
        return groups

    def _find_members(self, shard: int) -> dict[GroupKey, Integers]:
        columns = self.index.columns(shard)
        return self._groups_of(columns, self._usable(shard, columns)[0])
