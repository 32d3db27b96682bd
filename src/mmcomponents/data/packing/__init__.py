"""Packing: which samples share a pack, planned from the index alone.

    columns of the index ── Sizes ──► tokens, tiles ── Mixture (sources, order) ──► blocks ── PackPlan ──► packs

A pack is a function of (index, seed, epoch, number).
"""

from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.balanced_packer import BalancedPacker
from mmcomponents.data.packing.base import Packer
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.pack_plan import Budgets, Pack, PackPlan
from mmcomponents.data.packing.sizes import Sizes
from mmcomponents.data.packing.source_options import SourceOptions

__all__ = [
    "BalancedPacker",
    "Budgets",
    "Mixture",
    "Pack",
    "PackPlan",
    "Packer",
    "PairsOnce",
    "Sizes",
    "SourceOptions",
    "TokenShare",
]
