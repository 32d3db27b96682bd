"""Weights that the constructor of a part brings, such as those of a pretrained network that it loads.

    constructor ── draws in init_weights? ── else: same values at two seeds? ──► `Component.brought`, never drawn over

A part that is built on the meta device, which keeps no values, gets them from one that is built on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mmcomponents.component import Component, assign, versions


def note_brought(part: Component, again: Callable[[], Any]) -> None:
    """Sets `part.brought`, right after its construction.

    A parameter is brought if it was written after `init_weights` has drawn it. One that the constructor does not draw
    there is brought if two more instances, constructed at different random seeds, have the same values in it, which
    are neither random nor undefined.

    Args:
        part: The component.
        again: Constructs it once more.
    """
    drawn = dict[str, tuple[int, int]]()
    for path, module in part.named_modules():
        if isinstance(module, Component):
            own = {f"{path}.{name}".removeprefix("."): found for name, found in module.drawn.items()}
            drawn = own | drawn  # the outer component draws last
            vars(module).pop("drawn", None)
    now = versions(part)
    written = {name for name, found in drawn.items() if now.get(name) != found}
    undrawn = now.keys() - drawn.keys()
    part.brought = frozenset(written | (_constant(again) & undrawn if undrawn else set()))
    part.again = again if part.brought else None


def rebuilt(part: Component) -> Component | None:
    """Returns a part as its constructor makes it on the CPU if it brings values, else None."""
    if part.again is None:
        return None
    with torch.device("cpu"):
        found: Component = part.again()
    return found


@torch.no_grad()
def take_brought(part: Component, source: Component) -> None:
    """Copies the brought parameters from another instance; of sharded ones, each rank keeps its own shards."""
    values = dict(source.named_parameters())
    for given, parameter in part.named_parameters():
        name = given.replace("base_layer.", "")
        if name in part.brought:
            assign(parameter, values[name].detach())


def _constant(again: Callable[[], Any]) -> set[str]:
    """Returns the names of the parameters that do not depend on the random seed."""
    first, second = (_values(again, seed) for seed in (0, 1))
    return {name for name, value in first.items() if torch.equal(value, second[name])}  # NaN equals nothing


def _values(again: Callable[[], Any], seed: int) -> dict[str, Tensor]:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), _undefined_is_nan():
        torch.manual_seed(seed)
        return {name: value.detach() for name, value in again().named_parameters()}


@contextmanager
def _undefined_is_nan() -> Iterator[None]:
    """Fills memory that torch allocates without a value with NaN, which torch does in its deterministic mode."""
    was, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warns)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
