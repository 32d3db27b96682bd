"""Checks of the arguments of `check_component`: what is wrong there is no failure of the part."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from mmcomponents import registry
from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.testing.case import Case, NeutralStart
from mmcomponents.testing.composition import Factory, small_model, small_parts
from mmcomponents.testing.sample_packs import MakePacks


def chosen_tests(tests: Sequence[str], declared: Mapping[str, str], only: Collection[str] | None) -> list[str]:
    """Returns the names of the tests to run.

    Args:
        tests: Names of the tests of the slot.
        declared: Reasons of the tests that do not apply.
        only: Names that the user has chosen. None: all.

    Raises:
        ValueError: A name is unknown, or a reason is empty.
    """
    if not isinstance(declared, Mapping):
        raise ValueError(f"not_applicable is a {type(declared).__name__}, not a dict of reasons by test")
    if only is not None and (isinstance(only, str) or not only):
        raise ValueError(f"only is {only!r}, not a list of one or more tests")
    for name in [*declared, *(only or ())]:
        if name not in tests:
            near = difflib.get_close_matches(str(name), tests, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no contract test {name!r} for this slot{hint} (tests: {', '.join(tests)})")
    if empty := [name for name, reason in declared.items() if not isinstance(reason, str) or not reason.strip()]:
        raise ValueError(f"not_applicable gives no reason for {', '.join(empty)}")
    return [name for name in tests if only is None or name in only]


def checked_case(
    slot: str, factory: Factory, neighbours: Mapping[str, Any] | None, packs: MakePacks, neutral: NeutralStart | None
) -> Case:
    """Returns the case of a part, after building it once and making packs once.

    Raises:
        ValueError: The part or another one cannot be built, or the packs are unusable.
    """
    given = dict(neighbours or {})
    filled = "heads" if slot == "head" else slot
    if filled in given:
        raise ValueError(f"neighbours names the slot under test, {filled}")
    if neutral is not None and not isinstance(neutral, NeutralStart):
        raise ValueError(f"neutral is a {type(neutral).__name__}, not mmcomponents.testing.NeutralStart")
    is_part = slot not in ("objective", "sampler", "selector")
    own = {filled: {"lm": factory} if slot == "head" else factory} if is_part else {}
    parts = small_parts(**given, **own)
    _check_factory(slot, factory)
    if not isinstance(parts["heads"], Mapping):
        raise ValueError(f"neighbours gives {parts['heads']!r} as heads, not a dict of factories by name")
    for name, made in [*parts.items(), *parts["heads"].items()]:
        if made is not None and name != "heads":
            _check_factory(name, made)
    case = Case(slot, factory, parts, packs, neutral)
    with torch.random.fork_rng(devices=[]):
        _build(case, is_part)
        if slot != "selector":
            _check_packs(case)
    return case


def name_of(factory: Factory) -> str:
    """Returns the name of a class or function, also inside `functools.partial`."""
    while isinstance(factory, partial):
        factory = factory.func
    return getattr(factory, "__name__", type(factory).__name__)


def _check_factory(slot: str, factory: object) -> None:
    """Checks that a factory is one, and not the part itself.

    Raises:
        ValueError: It is not.
    """
    if isinstance(factory, nn.Module):
        raise ValueError(f"the {slot} is an instance of {type(factory).__name__}: give the class, or a partial of it")
    if not callable(factory):
        raise ValueError(f"the {slot} is {factory!r}, not a class or functools.partial of one")


def _build(case: Case, is_part: bool) -> None:
    """Builds the part once, so that a wrong factory is one error instead of a failure of each test.

    Raises:
        ValueError: It cannot be built, or is not a subclass of the slot's base.
    """
    base = registry.imported(registry.slots()[case.slot])

    def checked(*widths: Any) -> Any:
        part = case.factory(*widths)
        if not isinstance(part, base):
            raise ValueError(f"{type(part).__name__} is not a subclass of {base.__name__}")
        return part

    make: Callable[[], object] = partial(small_model, **case.with_part(checked)) if is_part else checked
    try:
        if not is_part:
            case.model()
        make()
    except Exception as error:
        own = error.__cause__ if isinstance(error, WiringError) and error.__cause__ is not None else error
        kind = "" if isinstance(own, ValueError) else f"{type(own).__name__}: "
        raise ValueError(f"{case.slot} {name_of(case.factory)} cannot be built: {kind}{own}") from error


def _check_packs(case: Case) -> None:
    """Checks what `packs` returns.

    Raises:
        ValueError: It cannot be called, returns something else than packs, too few, or other packs for the same seed.
    """
    try:
        one, two = case.samples(), case.samples()
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"packs has to be a function of (seed, *, tile, tokens_per_tile) that returns packs: {error}"
        ) from error
    if wrong := [pack for pack in one if not isinstance(pack, PackedBatch)]:
        raise ValueError(f"packs returns a {type(wrong[0]).__name__}, not packs")
    if case.parts["vision"] is not None and all(pack.images is not None for pack in one):
        raise ValueError("packs has to return a pack without images, as a rank may have none")
    if any(not a.input_ids.equal(b.input_ids) for a, b in zip(one, two, strict=True)):
        raise ValueError("packs returns other packs for the same seed")
