"""Comparison of the weights of a folder with those of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from reprlib import repr as shortened
from typing import Any

from torch import Tensor

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.spec import ModelSpec

_STACKS = {"DecoderLM": ("backbone", "layers"), "InternViT": ("vision", "blocks")}
"""Slot and name of the stack of layers of the parts that other projects store."""


def check_layers(spec: ModelSpec, names: Iterable[str]) -> None:
    """Checks that a folder has weights of as many layers as its configuration has, before the model is built.

    Args:
        spec: The model of the configuration.
        names: Names of the weights.

    Raises:
        CheckpointError: The numbers differ.
    """
    given = list(names)
    for slot, stack in _STACKS.values():
        part = spec.parts.get(slot) or {}
        wanted = _layers(part)
        if wanted is None:
            continue
        pattern = re.compile(rf"{slot}\.{stack}\.(\d+)\.")
        found = {match[1] for name in given if (match := pattern.match(name))}
        if len(found) != wanted:
            raise CheckpointError(
                f"the configuration has {shortened(wanted)} layers of the {slot} and the weights have {len(found)}"
            )


def _layers(part: dict[str, Any]) -> int | None:
    """Returns the number of layers with weights of a part; None if it is not known from the configuration alone."""
    arguments = part.get("init_args") or {}
    count = arguments.get("num_layers")
    if str(part.get("class_path")).rpartition(".")[2] not in _STACKS or not isinstance(count, int):
        return None
    levels = arguments.get("levels") or [-1]
    return count if levels[-1] == -1 else None


def check_names(where: str, wanted: Mapping[str, Tensor], given: Mapping[str, Lazy]) -> None:
    """Checks that names, types and shapes of weights and buffers are those of a model.

    Args:
        where: Folder or file of the weights, for the message.
        wanted: The model's tensors of any shape, by name; they may be on the meta device.
        given: What the folder or file has, by name.

    Raises:
        CheckpointError: They differ; the message has the first few names.
    """
    missing = [name for name in wanted if name not in given]
    surplus = [name for name in given if name not in wanted]
    if missing or surplus:
        reasons = [f"lacks {_few(missing)}"] if missing else []
        reasons += [f"has {_few(surplus)}, which the model does not have"] if surplus else []
        raise CheckpointError(f"{where} {' and '.join(reasons)}")
    integers = [
        name for name, value in given.items() if not value.meta.is_floating_point() and wanted[name].is_floating_point()
    ]
    if integers:
        kind = str(given[integers[0]].meta.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where}: {_few(integers)} is of type {kind}; quantised weights are not supported")
    if floats := [name for name in given if given[name].meta.is_floating_point() > wanted[name].is_floating_point()]:
        raise CheckpointError(f"{where}: {_few(floats)} is a floating-point tensor, the model has an integer one")
    wrong = [name for name, value in wanted.items() if given[name].meta.shape != value.shape]
    if wrong:
        shapes = f"{list(given[wrong[0]].meta.shape)}, the model has {list(wanted[wrong[0]].shape)}"
        raise CheckpointError(f"{where}: {wrong[0]} is {shapes} (and {len(wrong) - 1} more)")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
