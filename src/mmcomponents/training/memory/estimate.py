"""Estimate of a model's parameters, memory and FLOPs by slot, without allocating weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

from torch import Tensor, nn

from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives.references import Reference
from mmcomponents.training.flops import PREFIX, step_factors, work
from mmcomponents.training.gradients.gradient_watch import class_name
from mmcomponents.training.memory.device_memory import (
    HEAD,
    DeviceMemory,
    Run,
    device_memory,
    gathered,
    piece,
    slot_weights,
)
from mmcomponents.training.memory.step_trace import StepTrace, trace_forward, trace_step
from mmcomponents.training.memory.synthetic_pack import on_meta, pack_loss
from mmcomponents.training.slots import SlotOptions
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units, slots_with_units

Settings = dict[str, Checkpointing]
"""Slot -> its activation checkpointing, for each slot whose part has units."""


@dataclass(frozen=True)
class Plan:
    """Result of `make_plan`; numbers by slot are in the order of the data flow, followed by their "total".

    Attributes:
        parts: Class of the part in each slot.
        parameters: Number of weights of each slot; a shared weight is counted once.
        trainable: Number of trained weights of each slot.
        pack: Contents of the pack.
        flops: Floating-point operations of the forward pass.
        training_flops: Floating-point operations of a training step, with what is computed again.
        activations: Setting of activation checkpointing -> bytes that each slot keeps for the backward pass. Empty if
            the model cannot run without data.
        memory: Bytes on one device.
        problem: Why there are no activations; None if there are.
    """

    parts: dict[str, str]
    parameters: dict[str, int]
    trainable: dict[str, int]
    pack: dict[str, int]
    flops: dict[str, int]
    training_flops: dict[str, int]
    activations: dict[str, dict[str, int]]
    memory: DeviceMemory
    problem: str | None


class Estimator:
    """Runs a model without data, once for each setting of activation checkpointing that is asked for.

    Args:
        model: Model with its adapters, frozen slots frozen, on the meta device or any other.
        run: How it is trained.
        pack: The pack, see `synthetic_pack`.
        reference: Reference of a preference loss. It may hold a frozen copy of the model, and a step may run one more
            forward pass. Lookahead over several micro-batches is not counted.
    """

    def __init__(self, model: MultimodalModel, run: Run, pack: PackedBatch, reference: Reference | None = None) -> None:
        self.model, self.run, self.pack, self.reference = model, run, pack, reference
        self._batch = on_meta(pack)  # not within a trace, which would count its pixels
        self._traces: dict[tuple[Any, ...], StepTrace] = {}

    @property
    def slots(self) -> list[str]:
        """Slots whose parts have units."""
        return slots_with_units(self.model)

    @cached_property
    def _meta(self) -> MultimodalModel:
        model: MultimodalModel = copy.deepcopy(self.model).to("meta", self.run.compute)
        return model.train()

    def forward(self) -> dict[str, int]:
        """Returns the FLOPs of each slot in the forward pass."""
        return trace_forward(self._meta, self._loss)

    def trace(self, settings: Settings, run: Run | None = None) -> StepTrace:
        """Returns the step with a setting for each of `slots`, on the devices of `run` or of another run."""
        chosen = run or self.run
        key = (*sorted(settings.items()), 0 if chosen.accumulates else chosen.pieces)
        if key not in self._traces:
            prepare_units(self._meta, {s: SlotOptions(activation_checkpointing=v) for s, v in settings.items()})

            def gradient(parameter: nn.Parameter) -> int:
                return 0 if chosen.accumulates else chosen.weights.itemsize * piece(parameter, chosen)

            self._traces[key] = trace_step(self._meta, self._loss, gradient)
        return self._traces[key]

    def memory(self, settings: Settings, run: Run | None = None) -> DeviceMemory:
        """Returns the memory of a device with these settings, on the devices of `run` or of another run."""
        chosen = run or self.run
        memory, trace = self.without_activations(chosen), self.trace(settings, chosen)
        activations = sum(trace.kept.values())
        # Lightning frees the gradients of the last step between the forward and the backward pass.
        held = memory.gradients
        peak = max(trace.forward + held, trace.backward + (held if chosen.accumulates else 0))
        if chosen.fused_step:
            peak = max(peak, 2 * held)
        copies = gathered(self.model, chosen, trace.kept) if chosen.sharded else memory.gathered
        temporary = max(0, peak - activations - held)
        return replace(memory, gathered=copies, activations=activations, temporary=temporary)

    def without_activations(self, run: Run | None = None) -> DeviceMemory:
        """Returns the memory of weights, gradients and states."""
        holds = self.reference is not None and self.reference.is_model
        return device_memory(self.model, run or self.run, holds)

    def _loss(self) -> Tensor:
        return pack_loss(self._meta, self._batch, by_position=self.reference is not None)


def make_plan(estimator: Estimator, settings: Settings) -> Plan:
    """Estimates a model's size and cost.

    Args:
        estimator: The model and its pack.
        settings: Activation checkpointing of each slot whose part has units.

    Raises:
        WiringError: A part does not have the units that it declares.
    """
    model, reference, batch = estimator.model, estimator.reference, estimator.pack
    counts = {name.removeprefix(PREFIX): value for name, value in work(model, batch).items()}
    activations: dict[str, dict[str, int]] = {}
    problem = None
    try:
        flops = estimator.forward()
        if not any(p.requires_grad for p in model.parameters()):
            raise NothingTrainedError
        training = dict(estimator.trace(settings).flops)
        for setting in get_args(Checkpointing):
            kept = estimator.trace(dict.fromkeys(estimator.slots, setting)).kept
            activations[setting] = _with_total(_by_slot(model, kept))
        memory = estimator.memory(settings)
    except WiringError:
        raise
    except Exception as error:  # code of a part, which may need data
        flops, training = _declared(model, counts)
        activations, memory, problem = {}, estimator.without_activations(), _reason(error)
    if reference is not None and reference.runs_model:
        training = {slot: training.get(slot, 0) + flops.get(slot, 0) for slot in {**flops, **training}}
    weights = slot_weights(model)
    return Plan(
        parts=_classes(model),
        parameters=_with_total({slot: total for slot, (total, _) in weights.items()}),
        trainable=_with_total({slot: trained for slot, (_, trained) in weights.items()}),
        pack={
            "tokens": batch.num_tokens,
            "tiles": int(counts["tiles"]),
            "visual_tokens": int((batch.visual_index >= 0).sum()),
            "targets": int(counts["targets"]),
            "segments": batch.num_segments,
        },
        flops=_with_total(_by_slot(model, flops)),
        training_flops=_with_total(_by_slot(model, training)),
        activations=activations,
        memory=memory,
        problem=problem,
    )


class NothingTrainedError(ValueError):
    """Every slot is frozen, so that there is no backward pass."""


def _reason(error: Exception) -> str:
    if isinstance(error, NothingTrainedError):
        return "every slot is frozen, so that there is no backward pass"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"the model does not run without data ({type(error).__name__}{f': {first}' if first else ''})"


def _classes(model: MultimodalModel) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, part in model.parts().items():
        slot = HEAD if name.startswith("heads.") else name
        parts[slot] = ", ".join(filter(None, (parts.get(slot), class_name(part))))
    return parts


def _declared(model: MultimodalModel, counts: dict[str, float]) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the FLOPs of a forward pass and of a step as the parts declare them."""
    forward: dict[str, int] = {}
    training: dict[str, int] = {}
    factors = step_factors(model)
    for name in model.parts():
        slot, cost = HEAD if name.startswith("heads.") else name, counts.get(f"flops/{name}", 0.0)
        forward[slot] = forward.get(slot, 0) + int(cost)
        training[slot] = training.get(slot, 0) + int(cost * factors[name])
    return forward, training


def _by_slot(model: MultimodalModel, values: Mapping[str, int]) -> dict[str, int]:
    """Returns a value for each slot; what no part computes belongs to the head, or to the last part without one."""
    slots = list(_classes(model))
    found = dict.fromkeys(slots, 0)
    for slot, value in values.items():
        found[slot if slot in found else slots[-1]] += value
    return found


def _with_total(values: dict[str, int]) -> dict[str, int]:
    return {**values, "total": sum(values.values())}
