"""Best fit packing, then balancing."""

from __future__ import annotations

from mmcomponents.data.packing.base import Packer, Shares
from mmcomponents.data.packing.bin_packing import even_out, pack_block


class BalancedPacker(Packer):
    """The least number of packs by best fit, over which samples are dealt out and swapped to equalize their sizes."""

    def pack(self, sizes: Shares) -> list[list[int]]:
        """See the base class and `bin_packing.pack_block`."""
        return pack_block(sizes)

    def balance(self, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
        """See the base class and `bin_packing.even_out`."""
        return even_out(sizes, packs)
