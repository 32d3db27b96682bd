"""Counts of skipped samples, with a limit on their share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.reasons import few
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.loading.loaders import PackLoader
from mmcomponents.data.loading.prompts import PromptBatch

logger = logging.getLogger(__name__)

NAMED = 20
"""Number of samples that a summary lists."""


class SkippedSamples:
    """Counts the skipped samples of a run.

    Args:
        what: Name of the data in messages.
        samples: Number of samples of the data.
        allowed: Largest share of samples that may be skipped.
    """

    def __init__(self, what: str, samples: int, allowed: float) -> None:
        if not 0 <= allowed <= 1:
            raise ValueError(f"max_refused must be a share between 0 and 1, got {allowed}")
        self.what, self.samples, self.allowed = what, samples, allowed
        self.named = 0
        self.seen = 0.0
        self.refused = 0.0

    def check_plan(self, index: Index, too_large: Sequence[tuple[int, str]]) -> None:
        """Checks the samples that are known to be unusable before any is read.

        Args:
            index: Index of the samples, with their problems.
            too_large: (sample, reason) of the samples that do not fit into a pack.

        Raises:
            DataError: These are more than the allowed share of all samples.
        """
        lost = sum(int(index.begins[shard + 1] - index.begins[shard]) for shard in index.lost_shards)
        single = [(number, reason) for number, reason in index.problems.items() if index.problem(number) == reason]
        refused = lost + len(single) + len(too_large)
        if not refused:
            return
        problems = [f"all samples of {index.shards[shard]}: {reason}" for shard, reason in index.lost_shards.items()]
        problems += [f"{index.name(number)}: {reason}" for number, reason in [*single, *too_large][:NAMED]]
        for problem in problems[:NAMED]:
            logger.warning("%s data: cannot be used: %s", self.what, problem)
        summary = f"{self.what} data: {refused} of {self.samples} samples cannot be used"
        if refused > self.allowed * self.samples:
            raise DataError(f"{summary}, more than max_refused {self.allowed:g}: {few(problems)}")
        logger.warning("%s; max_refused is %g", summary, self.allowed)

    def warn(self, refused: Sequence[str]) -> None:
        """Logs the samples that were skipped in a batch of this rank."""
        for line in refused:
            self.named += 1
            logger.warning("%s data: skipped %s (%d so far)", self.what, line, self.named)

    def count(self, seen: float, refused: float, lines: Sequence[str] = ()) -> None:
        """Adds to the counts; with sums over all ranks, the counts are those of all ranks.

        Args:
            seen: Number of samples that were requested, including the skipped ones.
            refused: Number of skipped samples.
            lines: Descriptions of some of them, for the message.

        Raises:
            DataError: More than the allowed share of the samples seen (or of the first thousand) was skipped.
        """
        self.seen += seen
        self.refused += refused
        base = max(self.seen, min(self.samples, 1000))
        if self.refused > self.allowed * base:
            raise DataError(
                f"{self.what} data: {self.refused:g} of {self.seen:g} samples were skipped, more than max_refused"
                f" {self.allowed:g} of {base:g}; {few(lines) or 'the warnings above list them'}"
            )


def refused_of(batch: PackedBatch | PromptBatch) -> list[str]:
    """Returns the skipped samples of a batch."""
    return batch.refused if isinstance(batch, PackedBatch) else batch.batch.refused


def samples_seen(batch: PackedBatch | PromptBatch) -> int:
    """Returns the number of samples that were requested for a batch, including the skipped ones."""
    pack = batch if isinstance(batch, PackedBatch) else batch.batch
    if not isinstance(batch, PackedBatch):  # each question of a sample is a segment
        return len({key for key in pack.keys if key}) + len(pack.refused)
    return len(occurrences(pack)) + len(pack.refused)


def occurrences(pack: PackedBatch) -> Tensor:
    """Returns `[n, 3]` source, number and copy of each sample of a pack, which may have several segments.

    Segments whose sample has no number (-1) are samples of their own. The pack with a single padding token has none.
    """
    copy = torch.zeros_like(pack.segment_sample) if pack.segment_copy is None else pack.segment_copy
    rows = torch.stack((pack.segment_source, pack.segment_sample, copy), 1)
    if is_padding(pack):
        return rows[:0]
    known = pack.segment_sample >= 0
    return torch.cat((torch.unique(rows[known], dim=0), rows[~known]))


def is_padding(pack: PackedBatch) -> bool:
    """Whether a pack is that of a rank without samples, a single padding token."""
    types = pack.layout.token_type
    return len(types) == 1 and int(types[0]) == TokenType.PAD


B = TypeVar("B", PackedBatch, PromptBatch)


class Watched(Generic[B]):
    """A loader that logs and counts the skipped samples on this rank.

    Args:
        loader: Loader of packs, whose `refused` lists are read.
        skipped: Counts the skipped samples.
    """

    def __init__(self, loader: PackLoader[B], skipped: SkippedSamples) -> None:
        self.loader: PackLoader[B] = loader
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[B]:
        for batch in self.loader:
            refused = refused_of(batch)
            self.skipped.warn(refused)
            self.skipped.count(samples_seen(batch), len(refused), refused)
            yield batch
