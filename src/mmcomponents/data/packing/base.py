"""Base class of packers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]
"""`[n, 2]` shares of the token and the tile budget of a pack that n samples take, at most 1."""


class Packer(ABC):
    """Distributes the samples of a block over packs.

    A packer is a function of its arguments and the sizes only, since every rank and every resumed run computes the same
    packs. A recipe names it in `data.packer`.
    """

    @abstractmethod
    def pack(self, sizes: Shares) -> list[list[int]]:
        """Returns the samples of each pack, by their numbers in the block.

        Each sample is in exactly one pack, and the sizes of a pack sum to at most 1 in both budgets, except for
        rounding: 1e-6 is allowed. It is called for all blocks of an epoch when its packs are counted.

        Args:
            sizes: `[n, 2]`, see `Shares`; n is at least 1.
        """

    def balance(self, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
        """Returns as many packs, whose sizes may be closer to each other. The default changes nothing.

        It is called for blocks whose packs are read.

        Args:
            sizes: `[n, 2]`, see `Shares`.
            packs: What `pack` returned.
        """
        return packs

    def __repr__(self) -> str:
        """Returns class and arguments, by which a resumed run recognises the same plan."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__module__}.{type(self).__qualname__}({arguments})"
