"""Contract tests of a part: those of this library and those of other packages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mmcomponents import registry
from mmcomponents.testing.case import Case, NeutralStart
from mmcomponents.testing.check_arguments import checked_case, chosen_tests, name_of
from mmcomponents.testing.composition import Factory
from mmcomponents.testing.contracts.attention_backends_agree import attention_backends_agree
from mmcomponents.testing.contracts.checkpointing_changes_nothing import checkpointing_changes_nothing
from mmcomponents.testing.contracts.declared_sizes import declared_sizes
from mmcomponents.testing.contracts.decode_equals_forward import decode_equals_forward
from mmcomponents.testing.contracts.half_precision import half_precision
from mmcomponents.testing.contracts.neutral_start import neutral_start
from mmcomponents.testing.contracts.packed_equals_separate import packed_equals_separate
from mmcomponents.testing.contracts.packs_of_one_kind import packs_of_one_kind
from mmcomponents.testing.contracts.samplers_and_selectors import (
    answers_are_as_declared,
    answers_do_not_depend_on_the_batch,
    answers_repeat,
    choices_are_valid,
)
from mmcomponents.testing.contracts.sharded_equals_plain import sharded_equals_plain
from mmcomponents.testing.contracts.state_round_trip import state_round_trip
from mmcomponents.testing.contracts.two_ranks_equal_one import two_ranks_equal_one
from mmcomponents.testing.contracts.warm_start import warm_start
from mmcomponents.testing.ranks import Ranks
from mmcomponents.testing.report import Findings, NotApplicable, Report, Result, described
from mmcomponents.testing.sample_packs import MakePacks, text_packs

logger = logging.getLogger(__name__)

_MODEL = ("vision", "fuser", "merger", "projector", "embedder", "position", "backbone", "head")
_TRAINED = (*_MODEL, "objective")


@dataclass(frozen=True)
class _Contract:
    """One contract test: its function, the slots that it concerns, and whether it runs on two ranks."""

    run: Callable[..., None]
    slots: tuple[str, ...]
    on_ranks: bool = False


CONTRACTS: dict[str, _Contract] = {
    contract.run.__name__: contract
    for contract in (
        _Contract(packed_equals_separate, _TRAINED),
        _Contract(decode_equals_forward, _MODEL),
        _Contract(neutral_start, _MODEL),
        _Contract(declared_sizes, _TRAINED),
        _Contract(packs_of_one_kind, _TRAINED),
        _Contract(state_round_trip, _TRAINED),
        _Contract(two_ranks_equal_one, _TRAINED, on_ranks=True),
        _Contract(attention_backends_agree, _MODEL),
        _Contract(checkpointing_changes_nothing, _TRAINED),
        _Contract(half_precision, _TRAINED),
        _Contract(sharded_equals_plain, _MODEL, on_ranks=True),
        _Contract(warm_start, _MODEL),
        _Contract(answers_are_as_declared, ("sampler",)),
        _Contract(answers_do_not_depend_on_the_batch, ("sampler",)),
        _Contract(answers_repeat, ("sampler",)),
        _Contract(choices_are_valid, ("selector",)),
    )
}
"""Contract tests by name, in the order in which they run."""


def check_component(
    slot: str,
    factory: Factory,
    *,
    neighbours: Mapping[str, Any] | None = None,
    packs: MakePacks = text_packs,
    neutral: NeutralStart | None = None,
    not_applicable: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    ranks: Ranks | None = None,
) -> Report:
    """Runs the contract tests on a part, in a small InternVL3 whose other slots hold this library's parts.

    The report, also logged at level INFO, says for each test whether it passed, what failed and by how much, or why it
    does not apply. `docs/testing.md` describes the tests.

    Args:
        slot: Slot of the part, as in `mmcomponents components`.
        factory: Class of the part, or `functools.partial` of it with small sizes; called with the widths of its
            neighbours, as from a recipe. Parts run without dropout.
        neighbours: Factories for other slots, where the default parts do not fit; None leaves a slot empty. `heads` is
            a dict of factories by name.
        packs: Makes packs of one sample each, with what the objective needs. Default: packs for next-token prediction.
        neutral: Neutral start of the part, if it has one.
        not_applicable: Reason for each test that has no meaning for this part.
        only: Names of the tests to run. Default: all.
        ranks: Two running processes for the distributed tests. Default: two are started and ended, which takes seconds.

    Returns:
        The report.

    Raises:
        ContractError: A test failed; the message is the report.
        ValueError: The slot or a name of a test is unknown, a reason is empty, or the part cannot be built.
    """
    registry.available(slot)  # raises for an unknown slot
    declared = {} if not_applicable is None else not_applicable
    tests = chosen_tests([name for name, contract in CONTRACTS.items() if slot in contract.slots], declared, only)
    case = checked_case(slot, factory, neighbours, packs, neutral)
    if ranks is not None and not isinstance(ranks, Ranks):
        raise ValueError(f"ranks is a {type(ranks).__name__}, not mmcomponents.testing.Ranks")
    own = None
    results = []
    try:
        for name in tests:
            if name in declared:
                results.append(Result(name, "not applicable", declared[name]))
                continue
            run: Callable[[Case, Findings], None] = CONTRACTS[name].run
            if CONTRACTS[name].on_ranks:
                own = own or (None if ranks else Ranks())
                run = partial(CONTRACTS[name].run, ranks=ranks or own)
            results.append(_result(name, run, case))
    finally:
        if own is not None:
            own.close()
    report = Report(f"{slot} {name_of(factory)}", results)
    logger.info("%s", report)
    report.raise_for_failures()
    return report


def _result(name: str, run: Callable[[Case, Findings], None], case: Case) -> Result:
    """Runs one test. Any error inside a part is a failure of the test, with its type and its place."""
    found = Findings()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            run(case, found)
    except NotApplicable as reason:
        if not found.failures:
            return Result(name, "not applicable", str(reason))
    except (Exception, SystemExit) as error:
        logger.debug("%s", name, exc_info=True)
        found.failures.append(described(error))
    return Result.of(name, found)
