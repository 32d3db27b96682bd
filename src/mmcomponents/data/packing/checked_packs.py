"""Packs of a packer, which may be that of another package, with checks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmcomponents.data.errors import DataError
from mmcomponents.data.packing.base import Packer, Shares

_ROUNDING = 1e-6
"""Tolerance of a budget, whose shares are rounded."""


def checked_packs(packer: Packer, sizes: Shares) -> list[list[int]]:
    """Returns what `Packer.pack` makes of samples, without empty packs.

    Raises:
        DataError: The packer fails, a sample is in no pack or in several or does not exist, or a pack exceeds a budget.
    """
    try:
        packs = _plain(packer.pack(sizes))
    except Exception as error:
        raise _failed(packer, "pack", error) from error
    _check(packer, sizes, packs)
    return packs


def balanced_packs(packer: Packer, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
    """Returns what `Packer.balance` makes of packs.

    Raises:
        DataError: See `checked_packs`; or the number of packs has changed.
    """
    try:
        balanced = _plain(packer.balance(sizes, [list(pack) for pack in packs]))
    except Exception as error:
        raise _failed(packer, "balance", error) from error
    if len(balanced) != len(packs):
        raise DataError(f"the packer {packer!r} has balanced {len(packs)} packs to {len(balanced)}")
    _check(packer, sizes, balanced)
    return balanced


def _plain(packs: Any) -> list[list[int]]:
    """Returns the packs that are not empty, as lists of Python's integers.

    Raises:
        TypeError: They are no lists of integers.
    """
    found = [np.asarray(list(pack)) for pack in packs]
    if any(pack.size and pack.dtype.kind not in "iu" for pack in found):
        raise TypeError("packs are lists of integers, the numbers of samples")
    return [pack.tolist() for pack in found if pack.size]


def _failed(packer: Packer, task: str, error: Exception) -> DataError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return DataError(f"the packer {packer!r} cannot {task} samples: {reason}")


def _check(packer: Packer, sizes: Shares, packs: list[list[int]]) -> None:
    numbers = np.concatenate([np.zeros(0, np.int64), *packs]).astype(np.int64)
    inside = (numbers >= 0) & (numbers < len(sizes))
    if not inside.all():
        raise DataError(f"the packer {packer!r} has packed a sample {numbers[~inside][0]} of {len(sizes)}")
    if (wrong := int((np.bincount(numbers, minlength=len(sizes)) != 1).sum())) > 0:
        raise DataError(f"the packer {packer!r} has put {wrong} of {len(sizes)} samples in no pack or in several")
    full = max(float(sizes[pack].sum(0).max()) for pack in packs)
    if full > 1 + _ROUNDING:
        raise DataError(f"the packer {packer!r} has filled a pack to {full:.4g} times its budget")
