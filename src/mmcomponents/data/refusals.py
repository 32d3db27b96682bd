"""Counting the samples that could not be used: each is named, and too many are an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from mmcomponents.batch import PackedBatch
from mmcomponents.data.errors import DataError
from mmcomponents.data.index import Index
from mmcomponents.data.loaders import PackLoader
from mmcomponents.data.prompts import PromptBatch

logger = logging.getLogger(__name__)

NAMED = 20
"""Samples that a summary names."""


class Refusals:
    """Keeps count over a run.

    Args:
        what: Which data, for the messages.
        samples: Number of samples of the data.
        allowed: Largest share of samples that may be refused.
    """

    def __init__(self, what: str, samples: int, allowed: float) -> None:
        if not 0 <= allowed <= 1:
            raise ValueError(f"max_refused is a share between 0 and 1, not {allowed}")
        self.what, self.samples, self.allowed = what, samples, allowed
        self.named = 0
        self.seen = 0.0
        self.refused = 0.0

    def check_plan(self, index: Index, too_large: Sequence[tuple[int, str]]) -> None:
        """Judges what is known before anything is read.

        Args:
            index: The samples, with what is known against them.
            too_large: (sample, reason) of those that no pack can hold.

        Raises:
            DataError: They are more than the allowed share of all samples.
        """
        lost = sum(int(index.begins[shard + 1] - index.begins[shard]) for shard in index.lost_shards)
        single = [(number, reason) for number, reason in index.problems.items() if index.problem(number) == reason]
        refused = lost + len(single) + len(too_large)
        if not refused:
            return
        lines = [f"all samples of {index.shards[shard]}: {reason}" for shard, reason in index.lost_shards.items()]
        lines += [f"{index.name(number)}: {reason}" for number, reason in [*single, *too_large][:NAMED]]
        for line in lines[:NAMED]:
            logger.warning("%s data: cannot be used: %s", self.what, line)
        summary = f"{self.what} data: {refused} of {self.samples} samples cannot be used"
        if refused > self.allowed * self.samples:
            raise DataError(f"{summary}, more than max_refused {self.allowed:g}: {_few(lines)}")
        logger.warning("%s; max_refused is %g", summary, self.allowed)

    def warn(self, refused: Sequence[str]) -> None:
        """Names samples that were left out of a batch on this rank."""
        for line in refused:
            self.named += 1
            logger.warning("%s data: left out %s (%d so far)", self.what, line, self.named)

    def count(self, seen: float, refused: float, lines: Sequence[str] = ()) -> None:
        """Adds up, over all ranks where the numbers are sums over them.

        Args:
            seen: Samples that were asked for, the refused ones included.
            refused: Samples that were left out.
            lines: Some of them, for the message.

        Raises:
            DataError: More than the allowed share of the samples seen (or of the first thousand) was refused.
        """
        self.seen += seen
        self.refused += refused
        base = max(self.seen, min(self.samples, 1000))
        if self.refused > self.allowed * base:
            raise DataError(
                f"{self.what} data: {self.refused:g} of {self.seen:g} samples could not be used, more than"
                f" max_refused {self.allowed:g} of {base:g}; {_few(lines) or 'the warnings above name them'}"
            )


def _few(lines: Sequence[str]) -> str:
    named = "; ".join(lines[:3])
    return f"{named}; …" if len(lines) > 3 else named


def refused_of(batch: PackedBatch | PromptBatch) -> list[str]:
    """The samples that were left out of a batch."""
    return batch.refused if isinstance(batch, PackedBatch) else batch.batch.refused


def samples_seen(batch: PackedBatch | PromptBatch) -> int:
    """Samples that were asked for to make a batch, the refused ones included."""
    pack = batch if isinstance(batch, PackedBatch) else batch.batch
    if not isinstance(batch, PackedBatch):  # each question of a sample is a segment
        return len({key for key in pack.keys if key}) + len(pack.refused)
    rejected = 0 if pack.pairs is None else len(pack.pairs.rejected)
    return sum(1 for key in pack.keys if key) - rejected + len(pack.refused)


B = TypeVar("B", PackedBatch, PromptBatch)


class Watched(Generic[B]):
    """A loader whose refused samples are named and counted on this rank.

    Args:
        loader: What to read.
        refusals: Where to count.
    """

    def __init__(self, loader: PackLoader[B], refusals: Refusals) -> None:
        self.loader: PackLoader[B] = loader
        self.refusals = refusals

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[B]:
        for batch in self.loader:
            refused = refused_of(batch)
            self.refusals.warn(refused)
            self.refusals.count(samples_seen(batch), len(refused), refused)
            yield batch
