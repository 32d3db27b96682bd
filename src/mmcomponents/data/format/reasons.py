"""Counts of the reasons why samples cannot be used; reasons that differ only in numbers or names are merged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LISTED = 3


def kind_of(reason: str) -> str:
    """Returns a reason without its sample-specific numbers and names, to compare it with others."""
    kind = of_all(reason)
    return kind if kind != reason else re.sub(r"'[^']*'|\d+", "…", reason)[:160]


def of_all(reason: str) -> str:
    """Returns a reason in the words for all samples of its kind. Only the reasons of packs have such words."""
    return re.sub(r"\b\d+ (tokens|tiles), a pack takes (\d+)", r"more \1 than the \2 of a pack", reason)


@dataclass
class ReasonCount:
    """Number of samples with a reason.

    Attributes:
        reason: That of the first sample; those of the others may differ from it in numbers and names.
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
        return found.samples

    @property
    def samples(self) -> int:
        """Total number of samples."""
        return sum(found.samples for found in self._found.values())

    def listed(self) -> list[ReasonCount]:
        """Returns the counts, most frequent reason first."""
        return sorted(self._found.values(), key=lambda found: -found.samples)


def few(lines: Sequence[str]) -> str:
    """Joins lines "NAME: reason" into one, with three reasons at most, and three names at most for each.

    Reasons that differ only in numbers or names are shown once, as that of the first line.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for line in lines:
        name, _, reason = line.partition(": ")
        found.setdefault(kind_of(reason or line), (reason, []))[1].append(name)
    told = [f"{_listed(names, ', ')}: {reason}" if reason else names[0] for reason, names in found.values()]
    return _listed(told, "; ")


def _listed(texts: Sequence[str], separator: str) -> str:
    return separator.join([*texts[:_LISTED], *(["…"] if len(texts) > _LISTED else [])])
