"""Why samples cannot be used, counted by reason: what differs in a number or in a name only is one reason."""

from __future__ import annotations

import re
from dataclasses import dataclass


def kind_of(reason: str) -> str:
    """A reason without what differs from sample to sample."""
    kind = re.sub(r"\b\d+ (tokens|tiles), a pack takes (\d+)", r"more \1 than the \2 of a pack", reason)
    if kind != reason:
        return kind
    return re.sub(r"'[^']*'|\d+", "…", reason)[:160]


@dataclass
class ReasonCount:
    """How often a reason came up.

    Attributes:
        reason: As it was given where it came up once; else without what differs.
        samples: That it holds for.
        first: Name of the first of them.
    """

    reason: str
    samples: int
    first: str


class ReasonCounts:
    """Counts reasons as they come up."""

    def __init__(self) -> None:
        self._found: dict[str, ReasonCount] = {}

    def add(self, reason: str, name: str) -> int:
        """Counts one sample; returns how often its reason has come up."""
        kind = kind_of(reason)
        if (found := self._found.get(kind)) is None:
            found = self._found[kind] = ReasonCount(reason, 0, name)
        found.samples += 1
        if found.samples > 1 and found.reason != reason:
            found.reason = kind
        return found.samples

    @property
    def samples(self) -> int:
        """All that were counted."""
        return sum(found.samples for found in self._found.values())

    def listed(self) -> list[ReasonCount]:
        """The reasons, the most frequent first."""
        return sorted(self._found.values(), key=lambda found: -found.samples)
