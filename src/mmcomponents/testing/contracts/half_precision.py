"""Contract 9: bf16 weights leave positions, integers and exact numbers as they are."""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from mmcomponents.batch import PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.case import Case, loss_and_gradients, outputs, tensors_of
from mmcomponents.testing.report import Findings

_ALLOWED = 0.25
"""Norm of the difference of bf16 and fp32, relative to the output's. bf16 has 8 bits, and errors add up over layers."""


def half_precision(case: Case, found: Findings) -> None:
    """Compares a bf16-true model with an fp32 one, and requires that no integer of the pack has changed."""
    batch = case.mixed()
    cast_batch = cast(PackedBatch, HalfPrecision("bf16-true").convert_input(batch))
    before = _exact(cast_batch)
    model, half = case.copied_model(), case.copied_model().to(torch.bfloat16)
    if case.slot == "objective":
        _objective(found, case, half, cast_batch)
    else:
        with torch.no_grad():
            expected = outputs(model, batch)
            for name, value in outputs(half, cast_batch).items():
                found.near(f"bf16 {name}", value, expected[name], allowed=_ALLOWED)
        # oneDNN's bf16 weight gradient of a convolution reads unset memory where a map has one column (torch 2.13, CPUs
        # with AMX).
        with torch.backends.mkldnn.flags(enabled=False):
            _, gradients = loss_and_gradients(half, case.objective(), [cast_batch])
        for name, gradient in gradients.items():
            found.true(bool(torch.isfinite(gradient).all()), f"the bf16 gradient of {name} is not finite")
    for name, value in _exact(cast_batch).items():
        found.equal(f"{name} after a step", value, before[name])
    for name, value in _exact(batch).items():
        if name != "pixels":
            found.true(before[name].dtype == value.dtype, f"{name} is cast to {before[name].dtype}")
            found.equal(f"{name} after a cast of the pack", before[name], value)
    if model.position is not None and half.position is not None:
        long = case.pack([("t", 600), ("i", 2), ("t", 5)]).layout
        found.equal("ticks in bf16", half.position.ticks(long), model.position.ticks(long))
        for name, one, two in zip(
            ("cosines", "sines"), half.position.rotary(long), model.position.rotary(long), strict=True
        ):
            found.true(one.dtype == torch.float32, f"{name} of a bf16 position are {one.dtype}, not float32")
            found.equal(f"{name} in bf16", one, two)


def _objective(found: Findings, case: Case, half: MultimodalModel, batch: PackedBatch) -> None:
    """Checks that a cast of the task leaves the objective's state, and compares the loss of a bf16 model."""
    objective = case.objective()
    state = tensors_of(objective.state_dict())
    objective.to(torch.bfloat16)
    for name, value in tensors_of(objective.state_dict()).items():
        found.true(value.dtype == state[name].dtype, f"the objective's state {name} is cast to {value.dtype}")
    expected, _ = loss_and_gradients(case.copied_model(), case.objective(), [case.mixed()])
    found.near("bf16 loss", loss_and_gradients(half, objective, [batch])[0], expected, allowed=_ALLOWED)


def _exact(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """Returns copies of the numbers that no precision setting may change."""
    layout = batch.layout
    values = {name: getattr(layout, name) for name in ("token_type", "cu_seqlens", "image_id", "grid", "delta_log2")}
    values |= {"input_ids": batch.input_ids, "labels": batch.labels, "visual_index": batch.visual_index}
    if batch.pairs is not None and batch.pairs.reference_logps is not None:
        values["reference_logps"] = batch.pairs.reference_logps.tensor
    if batch.images is not None:
        values |= {name: getattr(batch.images, name) for name in ("pixels", "vq_ids", "valid_hw")}
    return {name: value.clone() for name, value in values.items() if value is not None}
