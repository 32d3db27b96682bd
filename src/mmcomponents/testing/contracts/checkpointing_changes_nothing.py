"""Contract 11: activation checkpointing changes neither the loss nor a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcomponents.testing.case import Case, loss_and_gradients
from mmcomponents.testing.report import Findings, NotApplicable
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units

_SETTINGS: tuple[Checkpointing, ...] = ("selective", "full")


def checkpointing_changes_nothing(case: Case, found: Findings) -> None:
    """Compares loss and gradients with those of the same model without checkpointing, bit for bit in fp32.

    All units of the model are checkpointed, in training mode. `two_ranks_equal_one` runs with checkpointing too.
    """
    if case.slot != "objective" and not case.part(case.copied_model()).shard_units:
        raise NotApplicable("the part declares no units (shard_units)")
    loss, gradients = _step(case, "none")
    for setting in _SETTINGS:
        again, others = _step(case, setting)
        found.equal(f"loss with {setting} checkpointing", again, loss)
        found.tensors(f"gradients with {setting} checkpointing", others, gradients, allowed=0.0)


def _step(case: Case, setting: Checkpointing) -> tuple[Tensor, dict[str, Tensor]]:
    model = case.copied_model()
    prepare_units(model, {}, setting)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return loss_and_gradients(model.train(), case.objective(), [case.mixed()])
