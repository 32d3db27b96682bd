from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from mmcomponents.batch import Exact, PackedBatch
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.extras import Actions


class Numbers:
    """Returns empty batches, distinguished by their padding token."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.read = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[PackedBatch]:
        for number in self.numbers:
            self.read += 1
            yield collate([], 1, number)


def value(batch: PackedBatch) -> dict[str, float]:
    return {"n": float(batch.input_ids[0])}


def totals(look: Lookahead) -> list[float]:
    return [batch.totals["n"] for batch in look if batch.totals is not None]


def test_totals_of_windows_and_of_the_short_last_one() -> None:
    look = Lookahead(Numbers(1, 2, 3, 4, 5), lambda: 2, value)
    assert len(look) == 5
    assert totals(look) == [3, 3, 7, 7, 5]
    assert totals(Lookahead(Numbers(1, 2, 3), 1, value)) == [1, 2, 3]


def test_one_window_is_held_and_no_more() -> None:
    numbers = Numbers(1, 2, 3, 4, 5)
    batches = iter(Lookahead(numbers, lambda: 2, value))
    next(batches)
    assert numbers.read == 2
    next(batches)
    assert numbers.read == 2


def test_sums_over_ranks_come_back_with_every_batch() -> None:
    asked = []

    def reduce(sums: dict[str, float]) -> dict[str, float]:
        asked.append(sums)
        return {"n": 10 * sums["n"]}

    assert totals(Lookahead(Numbers(1, 2, 3), lambda: 2, value, reduce)) == [30, 30, 30]
    assert [sums["n"] for sums in asked] == [3, 3]


def test_a_window_that_was_interrupted_ends_where_it_would_have() -> None:
    # three batches of an epoch of eight are done; steps end after 4 and 8
    look = Lookahead(Numbers(1, 2, 3, 4, 5), lambda: 4, value, place=lambda: (3, 8))
    assert totals(look) == [1, 14, 14, 14, 14]
    # an epoch may be shorter than its loader
    assert totals(Lookahead(Numbers(1, 2, 3, 4, 5), lambda: 2, value, place=lambda: (0, 3))) == [3, 3, 3]


def test_totals_are_not_shared_between_batches() -> None:
    first, second = Lookahead(Numbers(1, 2), lambda: 2, value)
    assert first.totals is not second.totals


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        list(Lookahead(Numbers(1), lambda: 0, value))


def test_the_first_batch_of_a_step_knows_the_others() -> None:
    numbers = Numbers(1, 2, 3, 4, 5)
    batches = list(Lookahead(numbers, lambda: 2, value))
    windows = [None if b.window is None else [int(o.input_ids[0]) for o in b.window] for b in batches]
    assert windows == [[2], None, [4], None, []]
    assert batches[0].window is not None
    assert batches[0].window[0] is batches[1]


def test_a_window_stays_on_the_cpu_travels_and_lets_go() -> None:
    first, second = Lookahead(Numbers(1, 2), 2, value)
    assert first.to("meta").input_ids.is_meta
    moved = first.to("meta").window
    assert moved is not None
    assert not moved[0].input_ids.is_meta
    again = pickle.loads(pickle.dumps(first))
    assert int(again.window[0].input_ids[0]) == 2
    cast = HalfPrecision("bf16-true").convert_input(first)
    assert int(cast.window[0].input_ids[0]) == 2
    # the second batch is referenced only by the first, and the first by nothing
    gone, gc_was_on = [weakref.ref(first), weakref.ref(second)], gc.isenabled()
    gc.disable()
    del first, second, moved, again, cast
    assert [ref() for ref in gone] == [None, None]
    if gc_was_on:
        gc.enable()


def test_batches_that_are_read_again_keep_no_window() -> None:
    kept = list(Numbers(1, 2))

    class Kept(Numbers):
        def __iter__(self) -> Iterator[PackedBatch]:
            return iter(kept)

    list(Lookahead(Kept(1, 2), 2, value))
    assert [b.window for b in kept] == [None, None]


def test_fields_of_record_kinds_pass_with_the_totals() -> None:
    class Scored(Numbers):
        def __iter__(self) -> Iterator[PackedBatch]:
            for number in self.numbers:
                actions = Actions(Exact(torch.tensor([[float(number)]])), torch.tensor([True]))
                yield replace(collate([], 1, number, seed=5, epoch=number), extras={"actions": actions})

    first, second = Lookahead(Scored(1, 2), 2, value)
    for number, batch in ((1, first), (2, second)):
        actions = batch.extras["actions"]
        assert isinstance(actions, Actions)
        assert actions.values.tensor.tolist() == [[number]]
        assert (batch.seed, batch.epoch) == (5, number)
        assert batch.totals is not None
    assert first.window is not None
    assert first.window[0].extras is second.extras
