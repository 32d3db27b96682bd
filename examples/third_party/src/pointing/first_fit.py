"""The packer."""

from __future__ import annotations

import numpy as np

from mmcomponents.data.packing import Packer
from mmcomponents.data.packing.base import Shares

_SLACK = 1e-9
"""Tolerance of a budget, so that samples that fill it exactly fit despite rounding."""


class FirstFit(Packer):
    """First fit: each sample, in the order of the block, into the first pack that has room for it."""

    def pack(self, sizes: Shares) -> list[list[int]]:
        """See the base class."""
        room, packs = np.empty_like(sizes), list[list[int]]()
        for sample, size in enumerate(sizes):
            fits = np.flatnonzero((room[: len(packs)] >= size - _SLACK).all(1))
            chosen = int(fits[0]) if len(fits) else len(packs)
            if chosen == len(packs):
                packs.append([])
                room[chosen] = 1.0
            packs[chosen].append(sample)
            room[chosen] -= size
        return packs
