"""Weights of slots that were quantised for training, as plain weights: the values that the run computed with.

They have the data type of the other weights of their slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.nn.nf4_linear import NF4Linear, dequantized

_CODES, _SCALES = ".codes", ".scales"


def restore_quantized(model: nn.Module) -> None:
    """Replaces the quantised linear maps within a model or a part by plain ones, in place."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for path, module in list(model.named_modules()):
        if isinstance(module, NF4Linear) and path:
            above, _, name = path.rpartition(".")
            model.get_submodule(above).add_module(name, module.restored(dtype))


def restored_weights(model: nn.Module, weights: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Returns the weights of a checkpoint with plain weights in place of quantised ones, each computed when it is read.

    Args:
        model: The model without quantisation, with its adapters, on any device.
        weights: Weights by their names in the model that was trained.

    Raises:
        CheckpointError: Only one of the two tensors of a quantised weight is there.
    """
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = dict(weights)
    for path in [name.removesuffix(_CODES) for name in weights if name.endswith(_CODES)]:
        if path not in linear:
            continue
        codes, scales = found.pop(path + _CODES), found.pop(path + _SCALES, None)
        if scales is None:
            raise CheckpointError(f"the checkpoint has {path}{_CODES} and no {path}{_SCALES}")
        shape = model.get_parameter(f"{path}.weight").shape
        dtype = _dtype(path.partition(".")[0], weights)
        meta = torch.empty(shape, dtype=dtype, device="meta")
        found[f"{path}.weight"] = Lazy(meta, partial(_read, codes, scales, shape, dtype))
    return found


def _dtype(slot: str, weights: Mapping[str, Lazy]) -> torch.dtype:
    own = (value.meta for name, value in weights.items() if name.startswith(f"{slot}."))
    return next((meta.dtype for meta in own if meta.is_floating_point()), torch.float32)


def _read(codes: Lazy, scales: Lazy, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return dequantized(codes.load(), scales.load(), shape, dtype)
