"""Packing: which samples share a pack, planned from the index alone.

    columns of the index ── Sizes ──► tokens, tiles ── Mixture (sources, order) ──► blocks ── PackPlan ──► packs

A pack is a function of (index, seed, epoch, number).
"""

from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.pack_plan import Budgets, Pack, PackPlan
from mmcomponents.data.packing.sizes import Sizes
from mmcomponents.data.packing.source_options import SourceOptions

__all__ = [
    "Budgets",
    "Mixture",
    "Pack",
    "PackPlan",
    "PairsOnce",
    "Sizes",
    "SourceOptions",
    "TokenShare",
]
