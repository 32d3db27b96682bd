"""Whether a training step fits a device, and the setting of activation checkpointing that costs least and fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from mmcomponents.training.memory.estimate import Estimator, Settings
from mmcomponents.training.units.checkpointing import Checkpointing

RESERVE = 0.08
"""Share of a device that is left for CUDA's own memory, fragmentation and the batch."""

_MOST_DEVICES = 2**13


@dataclass(frozen=True)
class Verdict:
    """What a device's memory is enough for.

    Attributes:
        capacity: Bytes of a device.
        fits: Whether the step fits with the settings that it has.
        cheapest: Settings by slot that compute the least again and fit. None if none does.
        devices: Number of devices on which the step fits with these settings, or with full checkpointing, the least
            power of two times the present number. None if there is none.
    """

    capacity: int
    fits: bool
    cheapest: Settings | None
    devices: int | None


def verdict(estimator: Estimator, settings: Settings, capacity: int) -> Verdict:
    """Compares a step with the memory of a device.

    Args:
        estimator: The model, its pack and its run.
        settings: Activation checkpointing of each slot whose part has units.
        capacity: Bytes of a device, of which `RESERVE` is left free.
    """
    limit = int(capacity * (1 - RESERVE))
    fits = estimator.memory(settings).total <= limit
    cheapest = next((s for s in _by_cost(estimator, limit) if estimator.memory(s).total <= limit), None)
    devices = _devices(estimator, limit) if cheapest is None else estimator.run.devices
    return Verdict(capacity, fits, cheapest, devices)


def _by_cost(estimator: Estimator, limit: int) -> Iterator[Settings]:
    """Yields settings that may fit, the one that computes least again first.

    What a slot keeps and computes again does not depend on the settings of others, so that the three uniform settings
    tell about all combinations.
    """
    slots = estimator.slots
    uniform = {s: estimator.trace(dict.fromkeys(slots, s)) for s in get_args(Checkpointing)}
    totals = {s: estimator.memory(dict.fromkeys(slots, s)) for s in uniform}
    found = []
    for choice in product(uniform, repeat=len(slots)):
        pairs = list(zip(slots, choice, strict=True))
        cost = sum(uniform[s].flops.get(slot, 0) - uniform["none"].flops.get(slot, 0) for slot, s in pairs)
        saved = sum(uniform["none"].kept.get(slot, 0) - uniform[s].kept.get(slot, 0) for slot, s in pairs)
        none = totals["none"]
        temporary = min((totals[s].temporary for s in choice), default=none.temporary)
        if none.total - none.temporary - saved + temporary <= limit:
            found.append((cost, sum(s != "none" for s in choice), dict(pairs)))
    yield from (settings for *_, settings in sorted(found, key=lambda item: item[:2]))


def _devices(estimator: Estimator, limit: int) -> int | None:
    run, settings = estimator.run, dict.fromkeys(estimator.slots, get_args(Checkpointing)[-1])
    kept = sum(estimator.trace(settings).kept.values())
    while run.sharded and run.devices < _MOST_DEVICES:
        run = replace(run, devices=2 * run.devices)
        least = estimator.without_activations(run)
        if least.total - least.gathered + kept <= limit and estimator.memory(settings, run).total <= limit:
            return run.devices
    return None
