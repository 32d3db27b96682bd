"""Contract 5: packs of text alone, of images alone and without targets train like any other."""

from __future__ import annotations

from dataclasses import replace

import torch

from mmcomponents.batch import IGNORE, PackedBatch
from mmcomponents.objectives import Objective
from mmcomponents.testing.case import Case, OutputNorm, loss_and_gradients, outputs
from mmcomponents.testing.report import Findings


def packs_of_one_kind(case: Case, found: Findings) -> None:
    """Requires a finite loss, and a finite gradient tensor for each trainable parameter, from each kind of pack.

    Under FSDP a parameter without a gradient on one rank would block the others. An objective may stop before the end
    of the model, but it has to train the same parameters from every pack.
    """
    trained: dict[str, set[str]] = {}
    if case.slot == "objective":
        for number, batch in enumerate(case.samples()):
            kind = f"pack {number} ({'text' if batch.images is None else 'images'})"
            trained[kind] = _trained(found, case, kind, batch, case.objective())
        expected = set().union(*trained.values())
    else:
        kinds = {"text alone": case.pack([("t", 9)], [("t", 4)])}
        if case.parts["vision"] is not None:
            kinds["images alone"] = case.pack([("i", 1)], [("i", 2)])
            _blank_tile(found, case, kinds["text alone"])
        trained = {kind: _trained(found, case, kind, batch, OutputNorm()) for kind, batch in kinds.items()}
        expected = {name for name, p in case.copied_model().named_parameters() if p.requires_grad}
        if case.has_language_head:  # whose losses do not run its `forward`
            kinds["no target"] = case.pack([("t", 5)], targets=[0])
            for kind, batch in kinds.items():
                trained[f"{kind}, next token"] = _trained(found, case, kind, batch, case.objective())
            _without_targets(found, case, kinds["no target"])
    for kind, names in trained.items():
        missing = sorted(expected - names)
        found.true(not missing, f"{kind}: no gradient for {', '.join(missing[:3])} ({len(missing)} parameters)")


def _trained(found: Findings, case: Case, kind: str, batch: PackedBatch, objective: Objective) -> set[str]:
    """Checks that loss and gradients are finite, and returns the names of the parameters that have a gradient."""
    loss, gradients = loss_and_gradients(case.copied_model().train(), objective, [batch])
    found.true(bool(torch.isfinite(loss)), f"{kind}: the loss is {float(loss)}")
    for name, gradient in gradients.items():
        found.true(bool(torch.isfinite(gradient).all()), f"{kind}: the gradient of {name} is not finite")
    return set(gradients)


def _without_targets(found: Findings, case: Case, batch: PackedBatch) -> None:
    model, objective = case.copied_model(), case.objective()
    assert not (batch.labels != IGNORE).any()
    loss, gradients = loss_and_gradients(model, objective, [batch])
    found.equal("loss of a pack without targets", loss, torch.zeros_like(loss))
    for name, gradient in gradients.items():
        found.equal(f"without targets, gradient of {name}", gradient, torch.zeros_like(gradient))


def _blank_tile(found: Findings, case: Case, text: PackedBatch) -> None:
    """Checks that the blank tile, which keeps the encoder in the graph of a pack without images, changes nothing."""
    model = case.copied_model()
    with torch.no_grad():
        without = outputs(model, replace(text))
    for name, value in outputs(model, text).items():
        if name in without:
            found.equal(f"{name} of text with a blank tile", value, without[name])
