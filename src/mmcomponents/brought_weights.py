"""Weights that the constructor of a part brings, such as those of a pretrained network that it loads.

    constructor ── copies into a parameter? writes after init_weights? ──► `Component.brought`, never drawn over

A part that is built on the meta device, which keeps no values, gets them from one that is built on the CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from mmcomponents.component import Component, assign, recording_loads, versions


def built(again: Callable[..., Any], *arguments: Any) -> Any:
    """Constructs a part, and sets its `brought` and `again`.

    A parameter is brought if the constructor copies values into it (`load_state_dict`, `copy_`, `data`), before or
    after it calls `init_weights`, or writes into it in another way after `init_weights` has drawn it.

    Args:
        again: Factory of the part.
        arguments: Arguments of the factory.
    """
    with recording_loads() as loads, warnings.catch_warnings():
        # On the meta device, where sizes alone are wanted, values that a constructor loads have no place.
        warnings.filterwarnings("ignore", message=".*to a meta parameter in the current model")
        part = again(*arguments)
    if not isinstance(part, Component):
        return part
    drawn = dict[str, tuple[int, int]]()
    for path, module in part.named_modules():
        if isinstance(module, Component):
            own = {f"{path}.{name}".removeprefix("."): found for name, found in module.drawn.items()}
            drawn = own | drawn  # the outer component draws last
            vars(module).pop("drawn", None)
    now = versions(part)
    written = {name for name, found in drawn.items() if now.get(name, found) != found}
    part.brought = frozenset(written | {name for name, p in part.named_parameters() if loads.has(p)})
    part.again = partial(again, *arguments) if part.brought else None
    return part


def rebuilt(part: Component) -> Component | None:
    """Returns a part as its constructor makes it on the CPU if it brings values, else None."""
    if part.again is None:
        return None
    with torch.device("cpu"), recording_loads():
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
