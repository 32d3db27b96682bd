"""Report with all figures of an inspection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmcomponents.data.inspection.index_survey import Survey, survey
from mmcomponents.data.inspection.opened_part import Opened
from mmcomponents.data.inspection.pack_statistics import MOST_BLOCKS, Packing, measure_packing
from mmcomponents.data.packing.pack_plan import Budgets


@dataclass(frozen=True)
class Report:
    """Figures of one part of the data.

    Attributes:
        part: train or val.
        epoch: The inspected epoch.
        budgets: Token and tile budgets of a pack.
        survey: Counts of the samples.
        packing: Figures of the expected packs.
    """

    part: str
    epoch: int
    budgets: Budgets
    survey: Survey
    packing: Packing


def inspect_data(
    opened: Opened,
    epoch: int = 0,
    shown: int = 0,
    packs_per_step: int = 8,
    most_blocks: int = MOST_BLOCKS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Computes all figures.

    Args:
        opened: The data.
        epoch: The epoch to inspect.
        shown: Number of samples to draw for a page.
        packs_per_step: Number of consecutive packs in an optimizer step, over all ranks.
        most_blocks: Largest number of blocks to plan.
        progress: Called with (stage, done, total).
    """

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    found = survey(opened.mixture, epoch, shown, stage("reading indices"))
    packing = measure_packing(opened.packs.plan, epoch, packs_per_step, most_blocks, stage("planning blocks"))
    return Report(opened.part, epoch, opened.mixture.budgets, found, packing)
