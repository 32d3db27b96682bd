"""One denominator for a whole optimizer step, known before its first forward.

A loss that is averaged over tokens needs the number of tokens of all the packs of the step: those of the
accumulation window, on all ranks. The batches say it in integers, so the loader holds one window back, adds up, asks
the other ranks, and hands the sums out with each batch.
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
    """Something that yields batches and knows how many."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[PackedBatch]: ...


class Lookahead:
    """Yields the batches of a loader with `batch.totals` set, and `batch.window` on the first of each step.

    Args:
        loader: What to read; it yields the batches that are left of the epoch.
        window: Batches of one optimizer step, or what returns them, asked at the start of each epoch.
        counts: Counts of one batch by name, from integers alone.
        reduce: Sums over all ranks; default: there is one.
        place: Returns (batches of this epoch that are done, batches of the epoch), asked at the start of each epoch: an
            interrupted epoch goes on in the middle of it, and steps end where they would have. Default: the epoch
            begins at its beginning, and is as long as the loader.
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
        """Nothing: where a run is, the datamodule knows. Lightning warns at a resume about loaders without this."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to load."""

    def __iter__(self) -> Iterator[PackedBatch]:
        done, length = self.place() if self.place else (0, len(self.loader))
        window = self.window if isinstance(self.window, int) else self.window()
        if window < 1:
            raise ValueError(f"an optimizer step takes at least one batch, not {window}")
        batches = iter(self.loader)
        names: tuple[str, ...] = ()
        while done < length:
            # the last window of an epoch is short, and so is the first one after a resume inside a window
            wanted = min(window - done % window, length - done)
            held = list(islice(batches, wanted))
            sums: Sums = defaultdict(float, dict.fromkeys(names, 0.0))
            sums[_SHORT] = float(len(held) < wanted)
            for batch in held:
                for name, count in self.counts(batch).items():
                    sums[name] += count
            names = tuple(sums)  # a rank without batches has to bring the same names to the sum
            totals = dict(sums) if self.reduce is None else self.reduce(dict(sums))
            if totals.pop(_SHORT, 0.0):
                # All ranks stop together: one that went on alone would wait for the others for ever.
                logger.warning("the data of a rank ended after %d of %d batches: the epoch ends here", done, length)
                return
            held = [replace(batch, totals=dict(totals), window=None) for batch in held]
            if held:
                held[0].window = held[1:]
            done += len(held)
            yield from held
