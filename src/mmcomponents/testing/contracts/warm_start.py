"""Contract 12: a model with the part starts from a folder of the composition without it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.checkpoints.initial import takes_from
from mmcomponents.component import Component, WiringError
from mmcomponents.testing.case import REFERENCE_SEED, Case, outputs
from mmcomponents.testing.composition import Factory, small_model, small_parts
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.testing.report import Findings, NotApplicable


def warm_start(case: Case, found: Findings) -> None:
    """Compares the weights of all other parts, and for a neutral start the outputs, with those of the folder.

    Parts whose sizes follow from those of the part keep their draw.
    """
    plain, is_neutral = _without(case)
    try:
        base = small_model(REFERENCE_SEED, scale=1.0, **plain)
    except (WiringError, TypeError, ValueError) as error:
        raise NotApplicable(f"the composition without the part does not fit: {error}") from error
    made = case.with_part(case.neutral.factory or case.factory) if is_neutral and case.neutral else case.parts
    model = small_model(1, scale=1.0, **made)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = write_folder(replace(case, parts=plain), base, Path(folder))
        try:
            load_initial(model, path, trust_remote_code=True)
        except CheckpointError as error:
            found.true(False, f"the folder is refused: {error}")
            return
    theirs, compared = base.parts(), 0
    for name, part in model.parts().items():
        if name != case.part_name and _same_sizes(part, theirs.get(name)):
            compared += 1
            for inner, parameter in part.named_parameters():
                found.equal(f"{name}.{inner}", parameter, theirs[name].get_parameter(inner))
    found.true(compared > 0, "no other part has the same sizes in both models")
    if is_neutral:
        batch = case.mixed()
        with torch.no_grad():
            expected = outputs(base, batch)
            for name, value in outputs(model, batch).items():
                found.equal(f"{name} of the neutral part", value, expected[name])
    own = case.part(model)
    if not getattr(own, "is_tied", False) and not takes_from(own, theirs.get(case.part_name)):
        changed = [n for n, p in own.named_parameters() if not torch.equal(p, before[f"{case.part_name}.{n}"])]
        found.true(not changed, f"the folder has no part of this class, and changed {', '.join(changed[:3])}")


def _without(case: Case) -> tuple[dict[str, Factory], bool]:
    """Returns the factories of a model without the part, and whether the part is neutral beside it."""
    if case.neutral is not None:
        return small_parts(**case.with_part(case.neutral.replaces) | dict(case.neutral.neighbours)), True
    other = case.with_part(small_parts()["heads"]["lm"] if case.slot == "head" else small_parts()[case.slot])
    made = small_model(**case.parts).parts().get(case.part_name)
    try:
        default = small_model(**other).parts().get(case.part_name)
    except (WiringError, TypeError, ValueError):
        return small_parts(**other), False  # reported when it is built
    # A part of the same class and another structure is another recipe of the same part.
    is_other = type(made) is type(default) and not (
        default is not None and made is not None and _same_sizes(made, default)
    )
    return small_parts(**case.parts if is_other else other), False


def _same_sizes(ours: Component, theirs: Component | None) -> bool:
    """Returns whether both are of one class, with the same weights and at least one."""
    if theirs is None or type(ours) is not type(theirs):
        return False
    sizes = {name: parameter.shape for name, parameter in ours.named_parameters()}
    return bool(sizes) and sizes == {name: parameter.shape for name, parameter in theirs.named_parameters()}
