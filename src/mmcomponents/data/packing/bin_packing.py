"""Bin packing of samples with two budgets: tokens and image tiles.

A block is distributed evenly over as few packs as possible. If that fails, it is packed by best fit decreasing or, for
a small block, by filling one pack after the other. Swaps then balance the packs. A sample is never split.
"""

from __future__ import annotations

import math

import numpy as np

from mmcomponents.data.format.columns import Integers
from mmcomponents.data.packing.base import Shares

EVEN = 0.002
"""Relative deviation from the mean below which bins count as balanced."""
PARTNERS = 16
"""Number of bins that a bin may swap with in a round: a swap with one that is hardly different gains little."""
NOTHING = -1
"""Item number that stands for no item, in a move without a return."""
MANY = 50
"""Number of packs of a block from which balance may cost one pack more, 2 % at most."""
FEW = 512
"""Maximum number of samples of a block for which a better, slower packing is tried."""

_SLACK = 1e-9
"""Tolerance of a budget, so that items that fill it exactly fit despite rounding."""


def best_fit(sizes: Shares) -> list[list[int]]:
    """Packs by best fit decreasing: largest items first, each into the bin where it leaves the least capacity.

    Args:
        sizes: `[n, 2]` shares of the two budgets per item, at most 1.

    Returns:
        Item numbers of each bin.
    """
    capacity = np.empty((len(sizes), 2))
    bins: list[list[int]] = []
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = capacity[: len(bins)] - sizes[item]
        fits = np.flatnonzero((left >= -_SLACK).all(1))
        if len(fits):
            remaining = left[fits]
            # the scarcer budget of the bin decides, the other one breaks ties
            chosen = int(fits[np.argmin(remaining.min(1) + 1e-3 * remaining.sum(1))])
            bins[chosen].append(item)
            capacity[chosen] = left[chosen]
        else:
            capacity[len(bins)] = 1.0 - sizes[item]
            bins.append([item])
    return bins


def fill_in_turn(sizes: Shares, candidates: int = 128, full: float = 0.02) -> list[list[int]]:
    """Fills one bin after the other: the largest items first, then the pair of items that fills it best.

    Better than best fit if few large items share a bin, since it searches for the pair that leaves no gap.

    Args:
        sizes: `[n, 2]` shares of the two budgets per item, at most 1.
        candidates: Maximum number of items considered for a pair.
        full: Share of the budget that a pair may leave unused.

    Returns:
        Item numbers of each bin.
    """
    scarce = int(np.argmax(sizes.sum(0)))  # the budget that determines the number of bins
    left = np.lexsort((-sizes.sum(1), -sizes[:, scarce]))
    bins: list[list[int]] = []
    while len(left):
        chosen, capacity = [int(left[0])], 1.0 - sizes[left[0]]
        left = left[1:]
        while len(fits := left[(sizes[left] <= capacity + _SLACK).all(1)]):
            items = _closing_pair(sizes, fits, capacity, scarce, candidates, full) or [int(fits[0])]
            chosen += items
            capacity = capacity - sizes[items].sum(0)
            left = left[~np.isin(left, items)]
        bins.append(chosen)
    return bins


def _closing_pair(
    sizes: Shares,
    fits: Integers,
    capacity: Shares,
    scarce: int,
    candidates: int,
    full: float,
) -> list[int] | None:
    """Returns two of the items that fit (largest first) if they fill the bin better than the largest alone."""
    gap = capacity[scarce] - sizes[fits[0], scarce]
    if len(fits) < 2 or gap - sizes[fits[1], scarce] > full:  # even the two largest leave too much
        return None
    if len(fits) > candidates:
        fits = fits[np.linspace(0, len(fits) - 1, candidates).astype(np.int64)]
    after = capacity - (sizes[fits][:, None] + sizes[fits][None])  # [m, m, 2]
    possible = np.triu((after >= -_SLACK).all(-1), 1)
    gaps = np.where(possible, after[..., scarce], np.inf)
    first, second = divmod(int(np.argmin(gaps)), len(fits))
    if gaps[first, second] >= min(full, gap):
        return None
    return [int(fits[first]), int(fits[second])]


def spread(sizes: Shares, count: int) -> list[list[int]] | None:
    """Distributes items evenly over a number of bins: largest first, each into the bin with the most capacity left.

    Tight packing also sorts by size: some packs hold only large samples and others only small ones, so steps differ in
    cost and in the distribution of their gradients. Even distribution makes each pack a representative part of its
    block.

    Args:
        sizes: `[n, 2]` shares of the two budgets per item, at most 1.
        count: Number of bins.

    Returns:
        Item numbers of each bin; None if some item does not fit.
    """
    capacity = np.ones((count, 2))
    bins: list[list[int]] = [[] for _ in range(count)]
    for item in np.argsort(-sizes.max(1), kind="stable").tolist():
        left = capacity - sizes[item]
        fits = (left >= -_SLACK).all(1)
        if not fits.any():
            return None
        chosen = int(np.argmax(np.where(fits, left.sum(1), -np.inf)))
        bins[chosen].append(item)
        capacity[chosen] = left[chosen]
    return bins


def pack_block(sizes: Shares) -> list[list[int]]:
    """Packs the samples of one block into few packs, distributed evenly if possible.

    Args:
        sizes: `[n, 2]` shares of the two budgets per sample, at most 1.

    Returns:
        Sample numbers of each pack.
    """
    # No packing has fewer packs than the scarcer budget needs. The tolerance is for sums that rounding lifts above an
    # integer.
    least = max(1, math.ceil(float(sizes.sum(0).max()) - 1e-6))
    if (bins := spread(sizes, least)) is not None:
        return bins
    best = best_fit(sizes)
    if len(sizes) <= FEW:
        best = min([fill_in_turn(sizes), best], key=len)
    # Accept 1% more packs if they are balanced in exchange.
    most = len(best) + (max(1, len(best) // 100) if len(best) >= MANY else 0)
    for count in sorted({min(least + 1, most), len(best), most}):
        if (bins := spread(sizes, count)) is not None:
            return bins
    return best


def even_out(sizes: Shares, bins: list[list[int]], rounds: int = 6) -> list[list[int]]:
    """Swaps items until the loads of all bins are nearly equal in both budgets. The number of bins does not change.

    The bin furthest from the mean gives an item to one of the bins most different from it, or swaps two items with it,
    whichever brings both closest to the mean, until no swap helps. Only elementwise arithmetic is used, so that all
    ranks compute the same bins on any processor.

    Args:
        sizes: `[n, 2]` shares of the two budgets per item.
        bins: Item numbers of each bin.
        rounds: Maximum number of swaps, in multiples of the number of bins.

    Returns:
        Item numbers of each bin.
    """
    count = len(bins)
    loads = np.array([sizes[items].sum(0) for items in bins])
    mean = np.maximum(loads.sum(0) / count, 1e-12)
    off = loads / mean - 1.0
    far = off[:, 0] ** 2 + off[:, 1] ** 2
    held = [[*items, NOTHING] for items in bins]
    everything = np.concatenate([sizes, np.zeros((1, 2))])  # NOTHING is the last, for moves without a return
    for _ in range(rounds * count):
        worst = int(np.argmax(far))
        if far[worst] < EVEN**2:
            break
        unlike = off[worst] - off
        distance = unlike[:, 0] ** 2 + unlike[:, 1] ** 2
        partners = np.argsort(-distance, kind="stable")[:PARTNERS].tolist()
        mine = np.array(held[worst])
        theirs = np.array([item for bin_ in partners for item in held[bin_]])
        owner = np.repeat(partners, [len(held[bin_]) for bin_ in partners])
        given = everything[mine][:, None] - everything[theirs][None]  # [m, n, 2] given minus received
        change = given / mean
        # Half of the decrease of the sum of squared deviations of both bins: with u the difference of their deviations,
        # |a|^2 + |b|^2 - |a - c|^2 - |b + c|^2 = 2 c (u - c). It needs no loads, and all swaps are compared at once.
        gain = (change * (unlike[owner] - change)).sum(-1)
        fits = ((loads[worst] - given <= 1.0 + _SLACK) & (loads[owner] + given <= 1.0 + _SLACK)).all(-1)
        gain = np.where(fits, gain, -1.0)
        first, second = divmod(int(np.argmax(gain)), len(theirs))
        if gain[first, second] <= 1e-9:
            far[worst] = -1.0  # excluded until a swap with another bin changes it
            continue
        partner = int(owner[second])
        one, other = int(mine[first]), int(theirs[second])
        for place, gone, came, sign in ((worst, one, other, -1.0), (partner, other, one, 1.0)):
            held[place] = [item for item in held[place] if item not in (gone, NOTHING)] + [came] * (came != NOTHING)
            held[place].append(NOTHING)
            loads[place] += sign * given[first, second]
            off[place] += sign * change[first, second]
            far[place] = off[place, 0] ** 2 + off[place, 1] ** 2
    return [items[:-1] for items in held]
