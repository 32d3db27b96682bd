"""Contract 3: a part with a neutral start changes no output until its gate is opened."""

from __future__ import annotations

import torch

from mmcomponents.testing.case import Case, outputs
from mmcomponents.testing.composition import small_model
from mmcomponents.testing.report import Findings, NotApplicable

_LEAST = 1e-3
"""Least change of an output by an opened gate."""


def neutral_start(case: Case, found: Findings) -> None:
    """Compares outputs bit for bit with those of a model without the part, then opens its gate.

    Weights are as drawn: a neutral start may be a matrix, such as the identity.
    """
    if case.neutral is None:
        raise NotApplicable("no neutral start is given (neutral=NeutralStart(…))")
    batch, neutral = case.mixed(), case.neutral
    with torch.no_grad():
        without = outputs(small_model(scale=1.0, **case.with_part(neutral.replaces) | neutral.neighbours), batch)
        model = small_model(scale=1.0, **case.with_part(neutral.factory or case.factory))
        for name, value in outputs(model, batch).items():
            found.equal(name, value, without[name])
        neutral.open(case.part(model))
        for name, value in outputs(model, batch).items():
            found.differ(f"{name} with and without the opened part", value, without[name], least=_LEAST)
