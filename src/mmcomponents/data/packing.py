"""How samples of given sizes share packs: bin packing with two budgets, tokens and image tiles.

A block is packed by best fit decreasing, a small one also by filling one pack after the other, and the better of both
says how many packs it takes. Where they fit, the samples are then dealt out evenly over as many. A sample is never cut.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmcomponents.data.rows import Integers

Shares = npt.NDArray[np.float64]

FEW = 512
"""Samples of a block for which a better, slower packing is tried."""

_SLACK = 1e-9
"""Shares of a budget are fractions: what fills one exactly must still fit."""


def best_fit(sizes: Shares) -> list[list[int]]:
    """Best fit decreasing: largest items first, each into the bin where it leaves the least room.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.

    Returns:
        Item numbers of each bin.
    """
    room = np.empty((len(sizes), 2))
    bins: list[list[int]] = []
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = room[: len(bins)] - sizes[item]
        fits = np.flatnonzero((left >= -_SLACK).all(1))
        if len(fits):
            remaining = left[fits]
            # the scarcer budget of the bin decides, the other one breaks ties
            chosen = int(fits[np.argmin(remaining.min(1) + 1e-3 * remaining.sum(1))])
            bins[chosen].append(item)
            room[chosen] = left[chosen]
        else:
            room[len(bins)] = 1.0 - sizes[item]
            bins.append([item])
    return bins


def fill_in_turn(sizes: Shares, candidates: int = 128, full: float = 0.02) -> list[list[int]]:
    """Fills one bin after the other: the largest items first, then the two that fill it up best.

    Better than best fit where few large items share a bin, since it looks for the pair that ends without a gap.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.
        candidates: Most items that are tried as halves of a pair.
        full: Share of the budget that a pair may leave empty.

    Returns:
        Item numbers of each bin.
    """
    scarce = int(np.argmax(sizes.sum(0)))  # the budget that decides how many bins are needed
    left = np.lexsort((-sizes.sum(1), -sizes[:, scarce]))
    bins: list[list[int]] = []
    while len(left):
        chosen, room = [int(left[0])], 1.0 - sizes[left[0]]
        left = left[1:]
        while len(fits := left[(sizes[left] <= room + _SLACK).all(1)]):
            items = _closing_pair(sizes, fits, room, scarce, candidates, full) or [int(fits[0])]
            chosen += items
            room = room - sizes[items].sum(0)
            left = left[~np.isin(left, items)]
        bins.append(chosen)
    return bins


def _closing_pair(
    sizes: Shares,
    fits: Integers,
    room: Shares,
    scarce: int,
    candidates: int,
    full: float,
) -> list[int] | None:
    """Two of the items that fit (largest first), if they fill the bin better than the largest alone."""
    gap = room[scarce] - sizes[fits[0], scarce]
    if len(fits) < 2 or gap - sizes[fits[1], scarce] > full:  # even the two largest leave too much
        return None
    if len(fits) > candidates:
        fits = fits[np.linspace(0, len(fits) - 1, candidates).astype(np.int64)]
    after = room - (sizes[fits][:, None] + sizes[fits][None])  # [m, m, 2]
    possible = np.triu((after >= -_SLACK).all(-1), 1)
    gaps = np.where(possible, after[..., scarce], np.inf)
    first, second = divmod(int(np.argmin(gaps)), len(fits))
    if gaps[first, second] >= min(full, gap):
        return None
    return [int(fits[first]), int(fits[second])]


def spread(sizes: Shares, count: int) -> list[list[int]] | None:
    """Deals items out to a number of bins so that all bins bear alike: largest first, each to the lightest bin.

    What is packed tightly is sorted as well: some packs hold large samples alone and others small ones alone, so steps
    differ in cost and their gradients in kind. Dealt out, each pack is a fair sample of its block.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes, none above 1.
        count: Number of bins.

    Returns:
        Item numbers of each bin; None where some item found no room.
    """
    room = np.ones((count, 2))
    bins: list[list[int]] = [[] for _ in range(count)]
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = room - sizes[item]
        fits = (left >= -_SLACK).all(1)
        if not fits.any():
            return None
        chosen = int(np.argmax(np.where(fits, left.sum(1), -np.inf)))
        bins[chosen].append(item)
        room[chosen] = left[chosen]
    return bins


def plan_block(sizes: Shares) -> list[list[int]]:
    """Packs the samples of one block.

    Args:
        sizes: `[n, 2]` shares of the two budgets that a sample takes, none above 1.

    Returns:
        Sample numbers of each pack, ascending; the packs in the order of their first samples.
    """
    best = best_fit(sizes)
    if len(sizes) <= FEW:
        best = min([fill_in_turn(sizes), best], key=len)
    # One pack more in fifty is a fair price for packs that are alike.
    more = spread(sizes, len(best) + 1) if len(best) >= 50 else None
    best = spread(sizes, len(best)) or more or best
    # Inside a pack, and among packs, the order of the (shuffled) block: sizes leave no trace.
    return sorted(sorted(pack) for pack in best)
