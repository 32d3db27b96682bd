"""Survey of an index: counts of each source, skipped samples with reasons, and a draw of samples to show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmcomponents.data.format.columns import Integers
from mmcomponents.data.format.reasons import kind_of, of_all
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.inspection.histogram import Histogram
from mmcomponents.data.packing.mixture import Mixture

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

NO_SOURCE = "(no source)"
LISTED = 50
"""Largest number of skipped samples that are listed by name."""

_SUMMED = ("samples", "images", "videos", "tokens", "tiles", "epoch_tokens", "refused")
_SHOWN_DRAW = 7_777  # seed component that separates these random draws from others


@dataclass
class SourceCount:
    """Counts of a source.

    Attributes:
        name: Name of the source.
        samples: Number of usable samples.
        passes: Mean number of passes over these samples in an epoch.
        images: Number of images of these samples.
        videos: Number of videos of these samples.
        tokens: Tokens of one pass, with the frames drawn for the epoch.
        tiles: Tiles of one pass, with thumbnails and frames.
        epoch_tokens: Tokens of all passes of an epoch.
        share: Share of all tokens of an epoch.
        refused: Number of skipped samples.
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
    """A skipped sample, or all samples of a shard.

    Attributes:
        name: Shard and key.
        source: Name of the source.
        reason: Why the sample cannot be used.
        samples: Number of samples.
    """

    name: str
    source: str
    reason: str
    samples: int = 1


@dataclass
class RefusalCount:
    """Number of samples that are skipped for one reason, and the first of them."""

    reason: str
    samples: int
    first: RefusedSample


@dataclass
class Survey:
    """Figures of an index.

    Attributes:
        shards: Number of shards.
        sources: Counts of each source.
        text_tokens: Tokens of an epoch from samples without images and videos.
        multimodal_tokens: Tokens of an epoch from the other samples.
        tokens: Tokens of the usable samples.
        tiles: Tiles of the usable samples.
        refusals: Counts of skipped samples by reason, the most frequent first.
        refused: Some of the skipped samples.
        drawn: Numbers of the samples to show, drawn evenly over the sources.
        notes: Remarks for the user, one line each.
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
        """Counts over all sources."""
        counts = {name: sum(getattr(source, name) for source in self.sources) for name in _SUMMED}
        seen = sum(source.samples * source.passes for source in self.sources)
        return SourceCount("all", **counts, passes=seen / max(1, counts["samples"]), share=1.0)

    @property
    def text_share(self) -> float:
        """Share of an epoch's tokens that is from samples without images and videos."""
        return self.text_tokens / max(1.0, self.text_tokens + self.multimodal_tokens)


def survey(mixture: Mixture, epoch: int = 0, shown: int = 0, progress: Progress | None = None) -> Survey:
    """Surveys an index, shard by shard.

    Args:
        mixture: The mixture, with its index.
        epoch: The epoch to survey. Epochs differ in the frames of videos and the repetitions of a token share.
        shown: Number of samples to draw.
        progress: Called with (shards done, shards in total).
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
        columns, numbers = self.index.columns(shard), np.arange(begin, end)
        usable = ~(_problems(self.index, shard) | np.isin(numbers, self.too_large))
        tokens, tiles = self.mixture.sizes.of(columns, numbers, np.zeros_like(numbers), self.epoch)
        text = (columns.images == 0) & (columns.videos == 0)
        passes = self.passes(columns.source, text)
        self.tokens, self.tiles = _added(self.tokens, tokens[usable]), _added(self.tiles, tiles[usable])
        for side in (0, 1):
            self.sides[side] += (tokens * passes)[usable & (text == bool(side))].sum()
        keys = np.random.default_rng((self.mixture.seed, shard, _SHOWN_DRAW)).random(end - begin)
        for number in np.unique(columns.source).tolist():
            here, source = (columns.source == number) & usable, self.sources[number]
            source.samples += int(here.sum())
            source.refused += int(((columns.source == number) & ~usable).sum())
            source.images += int(columns.images[here].sum())
            source.videos += int(columns.videos[here].sum())
            source.tokens += int(tokens[here].sum())
            source.tiles += int(tiles[here].sum())
            source.epoch_tokens += float((tokens * passes)[here].sum())
            self.seen[number] += passes[here].sum()
            able = np.flatnonzero(here & (passes > 0))
            lowest = able[np.argsort(keys[able])[: self.shown]]
            found = zip(keys[lowest].tolist(), (begin + lowest).tolist(), strict=True)
            self.draws[number] = sorted([*self.draws[number], *found])[: self.shown]

    def _take_sums(self) -> None:
        """Replaces the tokens of the epoch by the mixture's sums, since means are inexact after partial repetition."""
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
        refusals, refused = _skipped(self.mixture)
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
    """Describes uneven passes: two of five samples may have a third pass in one epoch, three in the next."""
    if mixture.share is not None:  # the token share then determines the length of an epoch
        return []
    parts = zip(mixture.groups, mixture.parts(epoch), mixture.parts(epoch + 1), strict=True)
    return [
        f"{mixture.describe(group)}: {here.more:,} of {group.samples:,} samples have one more pass in this epoch, and"
        f" {after.more:,} in the next: {group.repeat:g} passes on average"
        for group, here, after in parts
        if here.more != after.more
    ]


def _passes(mixture: Mixture, epoch: int) -> Callable[[Integers, npt.NDArray[np.bool_]], npt.NDArray[np.float64]]:
    """Returns a function that gives the mean passes in an epoch, by source and whether the sample is text only."""
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
    """Takes one sample of each group in turn, up to a number; returns them in the order of the groups."""
    taken = [0] * len(groups)
    while sum(taken) < count and any(n < len(group) for n, group in zip(taken, groups, strict=True)):
        for number, group in enumerate(groups):
            if taken[number] < len(group) and sum(taken) < count:
                taken[number] += 1
    return [sample for n, group in zip(taken, groups, strict=True) for sample in sorted(group[:n])]


def _skipped(mixture: Mixture) -> tuple[list[RefusalCount], list[RefusedSample]]:
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
        counts.setdefault(kind, RefusalCount(reason, samples, refused))
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
        found.reason = found.reason if found.samples == found.first.samples else of_all(found.reason)
    return sorted(counts.values(), key=lambda found: -found.samples), listed
