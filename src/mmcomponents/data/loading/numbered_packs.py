"""Base class of sources of packs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch


class Packs(Dataset[PackedBatch]):
    """The packs of one part of the data, by number: a pure function of its arguments and the number.

    Training reads an endless sequence of packs, numbered from 0; rank r of w uses every w-th. So the packs of a step do
    not depend on ranks and workers, and a run resumes by the number of packs that were used.

    Attributes:
        samples: Number of samples, of which a share may be skipped.
        source_names: Names of the sources, by number.
        capacity: Largest number of tokens of a pack; 0: unknown.
    """

    samples: int
    source_names: Sequence[str] = ()
    capacity: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of packs of an epoch; it may be an estimate."""

    @abstractmethod
    def __getitem__(self, item: Any) -> PackedBatch:
        """Returns a pack.

        Args:
            item: What `item` returned for its number, in this process or a worker. None: a pack without samples, for a
                rank that has no data left while others do.
        """

    def item(self, number: int) -> Any:
        """Returns what is passed to `__getitem__` for a pack, computed in the main process; by default its number."""
        return number

    def one_pass(self) -> int:
        """Returns the exact number of packs of one pass over the data, for validation; by default that of an epoch."""
        return len(self)

    def fingerprint(self) -> str:
        """Returns a text that is equal for equal packs. A resumed run warns if it has changed."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def bookmark(self, number: int) -> tuple[int, ...]:
        """Returns a place near a pack from which `open_at` continues without computing what comes before it."""
        return ()

    def open_at(self, bookmark: tuple[int, ...]) -> None:
        """Continues from a bookmark of packs with an equal fingerprint."""
        return
