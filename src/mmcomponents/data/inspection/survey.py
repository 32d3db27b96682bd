"""One walk through the index: what each source has, what cannot be used and why, and which samples are to be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmcomponents.data.index import Index
from mmcomponents.data.inspection.histogram import Histogram
from mmcomponents.data.mixture import Mixture
from mmcomponents.data.reasons import kind_of
from mmcomponents.data.rows import Integers

Progress = Callable[[int, int], None]
"""Is told how much is done, of how much."""

NO_SOURCE = "(no source)"
LISTED = 50
"""Refused samples that are listed by name."""

_SUMMED = ("samples", "images", "videos", "tokens", "tiles", "epoch_tokens", "refused")
_SHOWN_DRAW = 7_777  # tells these draws from others by the same seed


@dataclass
class SourceCount:
    """What a source has.

    Attributes:
        name: Of the source.
        samples: That can be used.
        passes: Times that each is seen in an epoch, on average.
        images: Of these samples.
        videos: Of these samples.
        tokens: Of one pass over them, as their videos are drawn.
        tiles: Of one pass over them, thumbnails and frames counted.
        epoch_tokens: Tokens of an epoch.
        share: Part of all tokens of an epoch.
        refused: Samples that cannot be used.
    """

    name: str
    samples: int = 0
    passes: float = 0.0
    images: int = 0
    videos: int = 0
    tokens: int = 0
    tiles: int = 0
    epoch_tokens: float = 0.0
    share: float = 0.0
    refused: int = 0


@dataclass(frozen=True)
class RefusedSample:
    """A sample that cannot be used, or all samples of a shard.

    Attributes:
        name: Shard and key.
        source: Its name.
        reason: Why it cannot be used.
        samples: How many are meant.
    """

    name: str
    source: str
    reason: str
    samples: int = 1


@dataclass
class RefusalCount:
    """How many samples are refused for one reason, and the first of them."""

    reason: str
    samples: int
    first: RefusedSample


@dataclass
class Survey:
    """What the index says of the data.

    Attributes:
        shards: Number of shards.
        sources: What each has.
        text_tokens: Of an epoch, from samples without images and videos.
        multimodal_tokens: Of an epoch, from the others.
        tokens: Tokens of the samples that can be used.
        tiles: Tiles of the samples that can be used.
        refusals: By reason, the most frequent first.
        refused: Some of the refused samples.
        drawn: Samples to be shown, drawn evenly over the sources.
        notes: What a user may wonder about, a line each.
    """

    shards: int
    sources: list[SourceCount]
    text_tokens: float
    multimodal_tokens: float
    tokens: Histogram
    tiles: Histogram
    refusals: list[RefusalCount] = field(default_factory=list)
    refused: list[RefusedSample] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> SourceCount:
        """All sources together."""
        counts = {name: sum(getattr(source, name) for source in self.sources) for name in _SUMMED}
        seen = sum(source.samples * source.passes for source in self.sources)
        return SourceCount("all", **counts, passes=seen / max(1, counts["samples"]), share=1.0)

    @property
    def text_share(self) -> float:
        """Part of an epoch's tokens that comes from samples without images and videos."""
        return self.text_tokens / max(1.0, self.text_tokens + self.multimodal_tokens)


def survey(mixture: Mixture, epoch: int = 0, shown: int = 0, progress: Progress | None = None) -> Survey:
    """Walks through the index, shard by shard.

    Args:
        mixture: What the epochs consist of.
        epoch: That is looked at: the frames of videos, and what a token share repeats, differ between epochs.
        shown: Samples to draw.
        progress: Is told of each shard.
    """
    walk = _Walk(mixture, epoch, shown)
    for shard in range(len(mixture.index.shards)):
        walk.add(shard)
        if progress is not None:
            progress(shard + 1, len(mixture.index.shards))
    return walk.finish()


class _Walk:
    def __init__(self, mixture: Mixture, epoch: int, shown: int) -> None:
        self.mixture, self.index, self.epoch, self.shown = mixture, mixture.index, epoch, shown
        self.sources = [SourceCount(name or NO_SOURCE) for name in mixture.index.sources]
        self.too_large: Integers = np.array(sorted(sample for sample, _ in mixture.refused), np.int64)
        self.sides = np.zeros(2)  # tokens of an epoch: multimodal, text
        self.tokens: Integers = np.zeros(1, np.int64)
        self.tiles: Integers = np.zeros(1, np.int64)
        self.passes = _passes(mixture, epoch)
        self.seen = np.zeros(len(self.sources))
        self.draws: list[list[tuple[float, int]]] = [[] for _ in self.sources]

    def add(self, shard: int) -> None:
        begin, end = self.index.begins[shard : shard + 2].tolist()
        if begin == end:
            return
        rows, numbers = self.index.rows(shard), np.arange(begin, end)
        usable = ~(_problems(self.index, shard) | np.isin(numbers, self.too_large))
        tokens, tiles = self.mixture.sizes.of(rows, numbers, np.zeros_like(numbers), self.epoch)
        text = (rows.images == 0) & (rows.videos == 0)
        passes = self.passes(rows.source, text)
        self.tokens, self.tiles = _added(self.tokens, tokens[usable]), _added(self.tiles, tiles[usable])
        for side in (0, 1):
            self.sides[side] += (tokens * passes)[usable & (text == bool(side))].sum()
        keys = np.random.default_rng((self.mixture.seed, shard, _SHOWN_DRAW)).random(end - begin)
        for number in np.unique(rows.source).tolist():
            here, source = (rows.source == number) & usable, self.sources[number]
            source.samples += int(here.sum())
            source.refused += int(((rows.source == number) & ~usable).sum())
            source.images += int(rows.images[here].sum())
            source.videos += int(rows.videos[here].sum())
            source.tokens += int(tokens[here].sum())
            source.tiles += int(tiles[here].sum())
            source.epoch_tokens += float((tokens * passes)[here].sum())
            self.seen[number] += passes[here].sum()
            able = np.flatnonzero(here & (passes > 0))
            lowest = able[np.argsort(keys[able])[: self.shown]]
            found = zip(keys[lowest].tolist(), (begin + lowest).tolist(), strict=True)
            self.draws[number] = sorted([*self.draws[number], *found])[: self.shown]

    def _take_sums(self) -> None:
        """Tokens of the epoch where the mixture counts them: what is repeated in part is no mean of samples."""
        if self.mixture.groups[0].source >= 0:
            for source in self.sources:
                source.epoch_tokens = 0.0
        self.sides[:] = 0
        for group, part in zip(self.mixture.groups, self.mixture.parts(self.epoch), strict=True):
            if group.source >= 0:
                self.sources[group.source].epoch_tokens += part.tokens
            self.sides[int(bool(group.text))] += part.tokens

    def finish(self) -> Survey:
        if self.mixture.share is not None:
            self._take_sums()
        total = float(self.sides.sum())
        for source, seen in zip(self.sources, self.seen.tolist(), strict=True):
            source.passes = seen / source.samples if source.samples else 0.0
            source.share = source.epoch_tokens / total if total else 0.0
        refusals, refused = _refusals(self.mixture)
        return Survey(
            shards=len(self.index.shards),
            sources=[source for source in self.sources if source.samples or source.refused],
            text_tokens=float(self.sides[1]),
            multimodal_tokens=float(self.sides[0]),
            tokens=Histogram.of(self.tokens, logarithmic=True),
            tiles=Histogram.of(self.tiles, logarithmic=False),
            refusals=refusals,
            refused=refused,
            drawn=_evenly([[sample for _, sample in draws] for draws in self.draws], self.shown),
            notes=_uneven(self.mixture, self.epoch),
        )


def _uneven(mixture: Mixture, epoch: int) -> list[str]:
    """Samples are whole: of five that are seen 2.5 times, two come up once more in one epoch and three in another."""
    if mixture.share is not None:  # an epoch then is as long as the token share makes it
        return []
    parts = zip(mixture.groups, mixture.parts(epoch), mixture.parts(epoch + 1), strict=True)
    return [
        f"{mixture.describe(group)}: {here.more:,} of {group.samples:,} samples come up once more in this epoch, and"
        f" {after.more:,} in the next: {group.repeat:g} passes on average"
        for group, here, after in parts
        if here.more != after.more
    ]


def _passes(mixture: Mixture, epoch: int) -> Callable[[Integers, npt.NDArray[np.bool_]], npt.NDArray[np.float64]]:
    """Times that samples of a source, text or not, are seen in an epoch."""
    table = np.zeros((len(mixture.index.sources), 2))
    for group, part in zip(mixture.groups, mixture.parts(epoch), strict=True):
        sources = slice(None) if group.source < 0 else group.source
        sides = slice(None) if group.text is None else int(group.text)
        table[sources, sides] = part.passes + part.more / group.samples
    return lambda source, text: table[source, text.astype(np.int64)]


def _problems(index: Index, shard: int) -> npt.NDArray[np.bool_]:
    begin, end = index.begins[shard : shard + 2].tolist()
    bad = np.full(end - begin, shard in index.lost_shards)
    known = np.fromiter(index.problems, np.int64, len(index.problems))
    bad[known[(known >= begin) & (known < end)] - begin] = True
    return bad


def _added(counts: Integers, sizes: Integers) -> Integers:
    more = np.bincount(sizes, minlength=len(counts)).astype(np.int64)
    more[: len(counts)] += counts
    return more


def _evenly(groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """Takes one of each group in turn, until there are enough; in the order of the groups."""
    taken = [0] * len(groups)
    while sum(taken) < count and any(n < len(group) for n, group in zip(taken, groups, strict=True)):
        for number, group in enumerate(groups):
            if taken[number] < len(group) and sum(taken) < count:
                taken[number] += 1
    return [sample for n, group in zip(taken, groups, strict=True) for sample in sorted(group[:n])]


def _refusals(mixture: Mixture) -> tuple[list[RefusalCount], list[RefusedSample]]:
    index, counts, listed = mixture.index, dict[str, RefusalCount](), list[RefusedSample]()

    def count(reason: str, samples: int, first: int) -> None:
        kind = kind_of(reason)
        if kind in counts:
            counts[kind].samples += samples
            if len(listed) >= LISTED:
                return
        source = index.sources[int(index.take(np.array([first])).source[0])] or NO_SOURCE
        name = index.name(first) if samples == 1 else f"{samples:,} samples from {index.name(first)} on"
        refused = RefusedSample(name, source, reason, samples)
        counts.setdefault(kind, RefusalCount(kind, samples, refused))
        if len(listed) < LISTED:
            listed.append(refused)

    for shard, reason in index.lost_shards.items():
        begin, end = index.begins[shard : shard + 2].tolist()
        if begin < end:
            count(reason, end - begin, begin)
    single = [(n, why) for n, why in index.problems.items() if index.problem(n) == why]
    for sample, reason in [*single, *mixture.refused]:
        count(reason, 1, sample)
    for found in counts.values():
        found.reason = found.first.reason if found.samples == found.first.samples else found.reason
    return sorted(counts.values(), key=lambda found: -found.samples), listed
