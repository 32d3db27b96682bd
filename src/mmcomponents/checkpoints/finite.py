"""Check that weights have no NaN and no infinity."""

from __future__ import annotations

from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError


def check_finite(where: str, name: str, value: Tensor) -> None:
    """Checks that all values of a tensor are finite; tensors of integers always are.

    Args:
        where: Folder or file that the tensor was read from, for the message.
        name: Name of the tensor, for the message.
        value: Tensor of any shape, in full or the local part of a sharded one.

    Raises:
        CheckpointError: Values are NaN or infinite; the message has their numbers.
    """
    if not value.is_floating_point():
        return
    value = value.detach()
    if value.element_size() == 1:  # torch has no sum of 8-bit floating-point types
        value = value.float()
    # One pass, several times faster than `isfinite` of each value: a finite sum has finite terms only. Another sum may
    # have overflowed, so the values are counted.
    if bool(value.sum().isfinite()):
        return
    nans, infinities = int(value.isnan().sum()), int(value.isinf().sum())
    if nans or infinities:
        counts = [f"{nans:,} NaN"] * bool(nans) + [f"{infinities:,} Inf"] * bool(infinities)
        raise CheckpointError(f"{where}: {name} has {' and '.join(counts)} in {value.numel():,} values")
