"""Contract 6: configuration and weights go out and come back, by Python and through a folder."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mmcomponents import registry
from mmcomponents.checkpoints import ModelSpec, load
from mmcomponents.checkpoints.export_folder import format_named, weights_of, write
from mmcomponents.component import stored_tensors
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.case import Case, loss_and_gradients, outputs
from mmcomponents.testing.composition import Factory
from mmcomponents.testing.packs import IMAGE_TOKEN, VOCAB_SIZE, join
from mmcomponents.testing.report import Findings, NotApplicable

_MAX_GROWTH = 4096
"""Bytes by which the state of an objective may grow in a step; a small model has more than ten times as many."""


def state_round_trip(case: Case, found: Findings) -> None:
    """Compares outputs bit for bit after loading the state into a new model, and after an export to a folder.

    A state_dict has the parameters and the persistent buffers of the parts, before and after a step: no teacher,
    reference or snapshot.
    """
    if case.slot == "objective":
        _objective(found, case)
        return
    model, batch = case.model(), case.mixed()
    state = copy.deepcopy(model.state_dict())
    loss_and_gradients(model, case.objective(), [batch])
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)} | set(stored_tensors(model))
    more = sorted(name for name in state.keys() ^ names if not name.endswith("_extra_state"))
    found.true(not more, f"only one of state_dict, parameters and buffers has {', '.join(more[:3])}")
    grown = sorted(model.state_dict().keys() ^ state.keys())
    found.true(not grown, f"the state_dict changes in a step: {', '.join(grown[:3])}")
    with torch.no_grad():
        expected = outputs(model, batch)
        other = case.model(seed=1)
        if any(True for _ in model.parameters()):
            first = next(iter(expected))
            found.differ("outputs of models of other seeds", outputs(other, batch)[first], expected[first], 1e-6)
        names = {name for name, _ in other.named_parameters()}
        other.load_state_dict(state)
        untied = sorted({name for name, _ in other.named_parameters()} ^ names)
        found.true(not untied, f"load_state_dict changes the parameters: {', '.join(untied)}")
        for name, value in outputs(other, batch).items():
            found.equal(f"{name} after load_state_dict", value, expected[name])
        _same_seed(found, case)
        with tempfile.TemporaryDirectory() as folder:
            path = write_folder(case, model, Path(folder))
            for name, value in outputs(load(path, trust_remote_code=True), batch).items():
                found.equal(f"{name} of the model from a folder", value, expected[name])


def write_folder(case: Case, model: MultimodalModel, folder: Path) -> Path:
    """Exports a model of a case.

    Raises:
        NotApplicable: A factory is not a class, or has arguments that JSON cannot hold.
    """
    spec = ModelSpec(_described(case.parts), VOCAB_SIZE, IMAGE_TOKEN)
    path = folder / "model"
    write(path, spec, weights_of(model.state_dict(), spec), format_named("mmcomponents"))
    return path


def _same_seed(found: Findings, case: Case) -> None:
    """Checks that weights depend on the seed, not on torch's global generator."""
    one, two = case.model(), case.model()
    torch.manual_seed(99)
    one.init_weights(3)
    torch.manual_seed(7)
    two.init_weights(3)
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        found.equal(f"{name} drawn twice from one seed", a, b)


def _objective(found: Findings, case: Case) -> None:
    model, objective = case.copied_model(), case.objective()
    fresh = case.factory().state_dict()
    batch = join(*case.samples())
    loss_and_gradients(model, objective, [batch])
    state = objective.state_dict()
    parameters = [name for name, _ in objective.named_parameters()]
    found.true(not parameters, f"the objective has parameters, which nothing trains: {', '.join(parameters[:3])}")
    grown = sorted(fresh.keys() ^ state.keys())
    found.true(not grown, f"the state_dict changes in training: {', '.join(grown[:3])}: a teacher or reference in it?")
    size = len(pickle.dumps(state)) - len(pickle.dumps(fresh))
    found.true(size < _MAX_GROWTH, f"the state_dict grows by {size} bytes in training: a teacher or reference in it?")
    other = case.objective()
    other.load_state_dict(state)
    ours, theirs = (o.eval()(model, batch, o.counts(batch)).total for o in (objective, other))
    found.equal("loss after load_state_dict", theirs, ours)


def _described(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns factories as the `model:` section of a recipe names them."""
    single = {slot: _part(slot, made) for slot, made in parts.items() if made is not None and slot != "heads"}
    return single | {"heads": {name: _part("head", made) for name, made in parts["heads"].items()}}


def _part(slot: str, factory: Factory) -> dict[str, Any]:
    made = factory if isinstance(factory, partial) else partial(factory)
    if not isinstance(made.func, type):
        raise NotApplicable(f"the factory of the {slot} is not a class or functools.partial of one: no folder names it")
    path = f"{made.func.__module__}.{made.func.__qualname__}"
    if "<locals>" in path:
        raise NotApplicable(f"{path} is defined inside a function: no folder names it")
    try:
        registry.imported(path)
    except registry.PartError as error:
        raise NotApplicable(f"no folder names {path}: {error}") from error
    name = made.func.__name__ if path.startswith(f"{registry.PACKAGE}.") else path
    given = inspect.signature(made.func).bind_partial(*made.args, **made.keywords).arguments
    arguments = {key: _argument(slot, value) for key, value in given.items()}
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise NotApplicable(f"an argument of the {slot} is not plain data: {error}") from error
    return {"class_path": name, "init_args": arguments}


def _argument(slot: str, value: Any) -> Any:
    """Returns an argument, in which factories of parts are described as a recipe names them."""
    if isinstance(value, partial | type):
        return _part(slot, value)
    if isinstance(value, Mapping):
        return {key: _argument(slot, item) for key, item in value.items()}
    return [_argument(slot, item) for item in value] if isinstance(value, list | tuple) else value
