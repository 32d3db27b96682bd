"""Totals of an optimizer step, available before its first forward.

A loss that is averaged over tokens is divided by the number of tokens in all packs of the step: those of the
accumulation window, on all ranks. The loader buffers one window of batches, sums their counts over the window and the
ranks, and attaches the totals to each batch.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Protocol

from mmcomponents.batch import PackedBatch

Sums = dict[str, float]

logger = logging.getLogger(__name__)

_SHORT = "lookahead/short"


class SizedLoader(Protocol):
    """A loader of batches with a length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[PackedBatch]: ...


class Lookahead:
    """Yields the batches of a loader with `batch.totals` set, and `batch.window` on the first of each step.

    Args:
        loader: Yields the remaining batches of the epoch.
        window: Number of batches per optimizer step, or a function that returns it, called at the start of each epoch.
        counts: Computes the counts of one batch by name, without any forward.
        reduce: Sums counts over all ranks. Default: a single rank.
        place: Returns (batches done in this epoch, batches of the epoch), called at the start of each epoch. A resumed
            epoch continues with the same boundaries between steps. Default: (0, length of the loader).
    """

    def __init__(
        self,
        loader: SizedLoader,
        window: int | Callable[[], int],
        counts: Callable[[PackedBatch], Sums],
        reduce: Callable[[Sums], Sums] | None = None,
        place: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.loader, self.window, self.counts, self.reduce, self.place = loader, window, counts, reduce, place

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, int]:
        """Returns an empty state, since the datamodule holds the progress.

        Lightning warns on resuming if a loader has no such method.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Does nothing: the state is empty."""

    def __iter__(self) -> Iterator[PackedBatch]:
        done, length = self.place() if self.place else (0, len(self.loader))
        window = self.window if isinstance(self.window, int) else self.window()
        if window < 1:
            raise ValueError(f"an optimizer step needs at least one batch, got {window}")
        batches = iter(self.loader)
        names: tuple[str, ...] = ()
        while done < length:
            # The last window of an epoch may be shorter, and so is the first one after resuming inside a window.
            wanted = min(window - done % window, length - done)
            held = list(islice(batches, wanted))
            sums: Sums = defaultdict(float, dict.fromkeys(names, 0.0))
            sums[_SHORT] = float(len(held) < wanted)
            for batch in held:
                for name, count in self.counts(batch).items():
                    sums[name] += count
            names = tuple(sums)  # all ranks must sum over the same names, also those without batches
            totals = dict(sums) if self.reduce is None else self.reduce(dict(sums))
            if totals.pop(_SHORT, 0.0):
                # All ranks stop together: one that continued alone would wait for the others forever.
                logger.warning("the data of a rank ended after %d of %d batches: the epoch ends early", done, length)
                return
            # Copies: the batches of the loader stay as they are. The first one holds the others, for objectives that
            # have to see all packs of a step before its first backward pass.
            held = [replace(batch, totals=dict(totals), window=None) for batch in held]
            if held:
                held[0].window = held[1:]
            done += len(held)
            yield from held
