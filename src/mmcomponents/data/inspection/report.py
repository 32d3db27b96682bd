"""All figures of an inspection in one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmcomponents.data.inspection.opening import Opened
from mmcomponents.data.inspection.packing import MOST_BLOCKS, Packing, measure_packing
from mmcomponents.data.inspection.survey import Survey, survey
from mmcomponents.data.plan import Budgets


@dataclass(frozen=True)
class Report:
    """What is known of a part of the data before a run.

    Attributes:
        part: train or val.
        epoch: That was looked at.
        budgets: Of a pack.
        survey: What there is.
        packing: What packs are to be expected.
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
    """Takes all figures.

    Args:
        opened: The data.
        epoch: That is looked at.
        shown: Samples to draw for a page.
        packs_per_step: Consecutive packs that are computed side by side.
        most_blocks: Blocks to plan at most.
        progress: Is told what is being done, how much of it, of how much.
    """

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(name, done, total)

    found = survey(opened.mixture, epoch, shown, stage("reading indices"))
    packing = measure_packing(opened.packs.plan, epoch, packs_per_step, most_blocks, stage("planning blocks"))
    return Report(opened.part, epoch, opened.mixture.budgets, found, packing)
