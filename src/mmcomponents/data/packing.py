"""How samples of given sizes share packs: bin packing with two budgets, tokens and image tiles.

A block is dealt out evenly over as few packs as that succeeds for. Where it does not, best fit decreasing packs it, or
for a small block filling one pack after the other. Swaps then make the packs alike. A sample is never cut.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from mmcomponents.data.rows import Integers

Shares = npt.NDArray[np.float64]

EVEN = 0.002
"""Bins that are within this share of the mean are alike."""
PARTNERS = 16
NOTHING = -1
MANY = 50
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


def pack_block(sizes: Shares) -> list[list[int]]:
    """Packs the samples of one block into as few packs as are found, dealt out evenly where that is possible.

    Args:
        sizes: `[n, 2]` shares of the two budgets that a sample takes, none above 1.

    Returns:
        Sample numbers of each pack.
    """
    least = max(1, math.ceil(float(sizes.sum(0).max()) - 1e-6))
    if (dealt := spread(sizes, least)) is not None:
        return dealt
    best = best_fit(sizes)
    if len(sizes) <= FEW:
        best = min([fill_in_turn(sizes), best], key=len)
    # One pack more in a hundred is a fair price for packs that are alike.
    most = len(best) + (max(1, len(best) // 100) if len(best) >= MANY else 0)
    for count in sorted({min(least + 1, most), len(best), most}):
        if (dealt := spread(sizes, count)) is not None:
            return dealt
    return best


def even_out(sizes: Shares, bins: list[list[int]], rounds: int = 6) -> list[list[int]]:
    """Swaps items until all bins bear nearly alike, in both budgets; their number stays.

    The bin that is furthest from the mean gives an item to one of those most unlike it, or swaps two, whichever brings
    both nearest to the mean, until nothing helps. Only elementwise arithmetic, so that all ranks come to the same bins
    on any processor.

    Args:
        sizes: `[n, 2]` shares of the two budgets that an item takes.
        bins: Item numbers of each bin.
        rounds: Most swaps, in multiples of the number of bins.

    Returns:
        Item numbers of each bin.
    """
    count = len(bins)
    loads = np.array([sizes[items].sum(0) for items in bins])
    mean = np.maximum(loads.sum(0) / count, 1e-12)
    off = loads / mean - 1.0
    far = off[:, 0] ** 2 + off[:, 1] ** 2
    held = [[*items, NOTHING] for items in bins]
    everything = np.concatenate([sizes, np.zeros((1, 2))])  # NOTHING is the last: to be given for an item
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
        given = everything[mine][:, None] - everything[theirs][None]  # [m, n, 2] what goes, less what comes
        change = given / mean
        gain = (change * (unlike[owner] - change)).sum(-1)
        fits = ((loads[worst] - given <= 1.0 + _SLACK) & (loads[owner] + given <= 1.0 + _SLACK)).all(-1)
        gain = np.where(fits, gain, -1.0)
        first, second = divmod(int(np.argmax(gain)), len(theirs))
        if gain[first, second] <= 1e-9:
            far[worst] = -1.0  # nothing helps it, until a swap with another changes it
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
