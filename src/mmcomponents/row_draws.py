"""Normal values of large parameters, drawn in blocks of rows: a rank of a sharded model draws those of its rows alone.

The values of a block depend on the key of the parameter and the number of the block, not on the sharding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

BLOCK = 2**20
"""Largest number of values of a block, of at least one row. A parameter that is not larger is drawn whole."""


def generator_of(key: str) -> torch.Generator:
    """Returns a random generator on the CPU that depends on a text only."""
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def own_rows(parameter: Tensor) -> tuple[Tensor, int] | None:
    """Returns the rows of a parameter that this rank keeps, and the number of the first.

    Args:
        parameter: `[rows, …]`, which may be sharded.

    Returns:
        The local tensor, `[rows, …]`, and the number of its first row; None if a rank keeps another piece than rows.
    """
    if not isinstance(parameter, DTensor):
        return parameter, 0
    if not all(isinstance(p, Replicate) or (type(p) is Shard and p.dim == 0) for p in parameter.placements):
        return None
    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return parameter.to_local(), int(offset[0])


def draw_rows(parameter: Tensor, std: float, key: str) -> bool:
    """Fills the rows of a parameter that this rank keeps with normal values.

    Args:
        parameter: Parameter `[rows, …]`, which may be sharded; changed in place.
        std: Standard deviation.
        key: Determines the values.

    Returns:
        Whether the parameter is filled: False for one that is not larger than a block, or not sharded by rows.
    """
    rows = own_rows(parameter) if parameter.numel() > BLOCK else None
    if rows is None:
        return False
    local, begin = rows
    for first, end, block in _blocks(parameter.shape, begin, begin + local.shape[0]):
        values = torch.empty(end - first, *parameter.shape[1:], dtype=torch.float32, device="cpu")
        values.normal_(0.0, std, generator=generator_of(f"{key}/{block}"))
        low, high = max(first, begin), min(end, begin + local.shape[0])
        local[low - begin : high - begin].copy_(values[low - first : high - first])
    return True


def _blocks(shape: torch.Size, begin: int, end: int) -> list[tuple[int, int, int]]:
    """Returns first row, end and number of each block with rows from `begin` to `end`."""
    rows = max(1, BLOCK // max(1, shape[1:].numel()))
    numbers = range(begin // rows, -(-end // rows)) if end > begin else range(0)
    return [(number * rows, min((number + 1) * rows, shape[0]), number) for number in numbers]


def put_rows(parameter: Tensor, read: Callable[[int, int], Tensor]) -> bool:
    """Copies values into the rows of a parameter that this rank keeps.

    Args:
        parameter: Parameter `[rows, …]`, which may be sharded; changed in place.
        read: Reads rows `[end - first, …]`, from the first to the end (exclusive).

    Returns:
        Whether the values are copied: False for a parameter that is not sharded by rows.
    """
    rows = own_rows(parameter)
    if rows is None:
        return False
    local, begin = rows
    if local.shape[0]:
        local.copy_(read(begin, begin + local.shape[0]))
    return True
