"""Counts of the reasons why samples cannot be used; reasons that differ only in numbers or names are merged."""

from __future__ import annotations

import re
from dataclasses import dataclass


def kind_of(reason: str) -> str:
    """Returns a reason without its sample-specific numbers and names."""
    kind = re.sub(r"\b\d+ (tokens|tiles), a pack takes (\d+)", r"more \1 than the \2 of a pack", reason)
    if kind != reason:
        return kind
    return re.sub(r"'[^']*'|\d+", "…", reason)[:160]


@dataclass
class ReasonCount:
    """Number of samples with a reason.

    Attributes:
        reason: Original text if all samples share it, otherwise the text without the parts that differ.
        samples: Number of samples.
        first: Name of the first sample.
    """

    reason: str
    samples: int
    first: str


class ReasonCounts:
    """Counter of reasons."""

    def __init__(self) -> None:
        self._found: dict[str, ReasonCount] = {}

    def add(self, reason: str, name: str) -> int:
        """Counts one sample and returns the number of samples with its reason so far."""
        kind = kind_of(reason)
        if (found := self._found.get(kind)) is None:
            found = self._found[kind] = ReasonCount(reason, 0, name)
        found.samples += 1
        if found.samples > 1 and found.reason != reason:
            found.reason = kind
        return found.samples

    @property
    def samples(self) -> int:
        """Total number of samples."""
        return sum(found.samples for found in self._found.values())

    def listed(self) -> list[ReasonCount]:
        """Returns the counts, most frequent reason first."""
        return sorted(self._found.values(), key=lambda found: -found.samples)
