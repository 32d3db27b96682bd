from __future__ import annotations

import pickle
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from data.conftest import golden
from data.packing.listed_epochs import ListedEpochs
from mmcomponents.data.loading.loaders import one_pass
from mmcomponents.data.packing.bin_packing import best_fit, fill_in_turn
from mmcomponents.data.packing.pack_plan import Budgets, PackPlan

CASES = {case["case"].split("_")[0]: case for case in golden("f_packing")["cases"]}


def loads(case: dict) -> tuple[np.ndarray, np.ndarray, int, int]:
    sizes = np.array(case["samples[num_tokens,num_tiles]"])
    return sizes[:, 0], sizes[:, 1], case["params"]["maxtok"], case["params"]["tiles"]


def plan_of(
    tokens: Any, tiles: Any, token_budget: int, tile_budget: int | None, seed: int = 0, block: int = 2048, **more: bool
) -> PackPlan:
    budgets = Budgets(token_budget, tile_budget)
    return PackPlan(ListedEpochs(tokens, tiles, budgets, seed, block, **more), budgets, seed, **more)


def load_of(plan: PackPlan, epoch: int, values: np.ndarray) -> np.ndarray:
    first = plan.first_pack(epoch)
    packs = [plan.pack(n) for n in range(first, first + plan.packs_in_epoch(epoch))]
    assert all(pack.epoch == epoch for pack in packs)
    return np.array([values[list(pack.samples)].sum() for pack in packs])


@pytest.mark.parametrize("name", ["k01", "k03", "k05", "k07", "k15"])
def test_never_more_packs_than_the_reference(name: str) -> None:
    tokens, tiles, token_budget, tile_budget = loads(CASES[name])
    epochs = ListedEpochs(tokens, tiles, Budgets(token_budget, tile_budget), seed=0)
    assert epochs.refused == []
    plan = PackPlan(epochs, epochs.budgets, seed=0)
    for epoch in range(4):
        assert plan.packs_in_epoch(epoch) <= len(CASES[name]["packs"])
        assert load_of(plan, epoch, tokens).max() <= token_budget
        assert load_of(plan, epoch, tiles).max() <= tile_budget
        if name == "k15":
            assert plan.packs_in_epoch(epoch) <= 23


@pytest.mark.parametrize(("name", "over"), [("k09", "tiles"), ("k11", "tokens")])
def test_a_sample_over_a_budget_is_refused_with_the_numbers(name: str, over: str) -> None:
    tokens, tiles, token_budget, tile_budget = loads(CASES[name])
    plan = plan_of(tokens, tiles, token_budget, tile_budget)
    budget, values = (tile_budget, tiles) if over == "tiles" else (token_budget, tokens)
    ((sample, reason),) = plan.epochs.refused  # type: ignore[attr-defined]
    assert reason == f"{values[sample]} {over}, a pack takes {budget}"
    kept = {s for n in range(plan.packs_in_epoch(0)) for s in plan.pack(n).samples}
    assert kept == set(range(len(tokens))) - {sample}


def random_plan(seed: int = 1, samples: int = 700, block: int = 128, shuffle: bool = True) -> PackPlan:
    generator = np.random.default_rng(5)
    tokens, tiles = generator.integers(1, 400, samples), generator.integers(0, 8, samples)
    return plan_of(tokens, tiles, 1000, 24, seed, block, shuffle=shuffle)


def test_each_epoch_has_each_sample_once() -> None:
    plan = random_plan()
    for epoch in range(3):
        first = plan.first_pack(epoch)
        samples = [s for n in range(first, first + plan.packs_in_epoch(epoch)) for s in plan.pack(n).samples]
        assert Counter(samples) == Counter(range(700))


def test_the_plan_is_a_function_of_its_arguments_alone() -> None:
    one, other = random_plan(), random_plan()
    forwards = [one.pack(n) for n in range(400)]
    backwards = [other.pack(n) for n in reversed(range(400))][::-1]
    assert forwards == backwards
    assert {pack.epoch for pack in forwards} >= {0, 1}
    seeded = random_plan(seed=2)
    assert one.fingerprint() == other.fingerprint() != seeded.fingerprint()
    assert forwards[:100] != [seeded.pack(n) for n in range(100)]


def test_epochs_are_shuffled_unless_told_otherwise() -> None:
    plan, still = random_plan(), random_plan(shuffle=False)
    assert plan.pack(0).samples != plan.pack(plan.first_pack(1)).samples
    assert still.pack(3).samples == still.pack(still.first_pack(1) + 3).samples
    # large samples do not come first
    sizes = [len(plan.pack(n).samples) for n in range(plan.packs_in_epoch(0))]
    half = len(sizes) // 2
    assert abs(np.mean(sizes[:half]) - np.mean(sizes[half:])) < 0.5


def test_ranks_divide_the_packs_among_them() -> None:
    assert [one_pass(4, rank, 3) for rank in range(3)] == [[0, 3], [1, None], [2, None]]
    assert one_pass(4, 0, 1) == [0, 1, 2, 3]


@pytest.mark.parametrize("pack", [best_fit, fill_in_turn])
def test_a_budget_may_be_filled_exactly(pack: object) -> None:
    sizes = np.array([[1 / 3, 0.1]] * 6 + [[0.1, 1 / 7]] * 7)
    bins = pack(sizes)  # type: ignore[operator]
    assert sorted(item for items in bins for item in items) == list(range(13))
    assert len(bins) <= 3
    assert all((sizes[items].sum(0) < 1 + 1e-6).all() for items in bins)


def test_a_sample_may_fill_a_pack_alone() -> None:
    budgets = Budgets(10, 3)
    assert budgets.fit(np.array([10, 11, 10]), np.array([3, 3, 4])).tolist() == [True, False, False]
    assert plan_of([10, 10], [3, 3], 10, 3).packs_in_epoch(0) == 2


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="no sample is left of 2: 2 exceed"):
        plan_of([10, 20], [1, 1], 5, 5)
    with pytest.raises(ValueError, match="0 tokens"):
        plan_of([1], [1], 0, 5)
    with pytest.raises(ValueError, match="0 tiles"):
        plan_of([1], [1], 5, 0)
    assert plan_of([1], [1], 1, 1).packs_in_epoch(0) == 1
    assert plan_of([1, 1], [99, 99], 2, None).packs_in_epoch(0) == 1


def test_a_run_goes_on_from_a_bookmark_without_planning_what_came_before() -> None:
    plan = random_plan(block=64)
    number = plan.first_pack(1) + plan.packs_in_epoch(1) // 2
    wanted = [plan.pack(n) for n in range(number, number + 200)]
    bookmark = plan.bookmark(number)
    assert bookmark.epoch == 1
    assert bookmark.pack <= number
    fresh = random_plan(block=64)
    asked = []
    block_of = fresh.epochs.block

    def block(epoch: int, block: int) -> Any:
        asked.append((epoch, block))
        return block_of(epoch, block)

    fresh.epochs.block = block  # type: ignore[method-assign]
    fresh.open_at(bookmark)
    assert [fresh.pack(n) for n in range(number, number + 200)] == wanted
    assert min(asked) == (1, bookmark.block)
    assert fresh.pack(3) == plan.pack(3), "what came before can still be asked for"


def test_the_length_of_an_endless_epoch_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = random_plan(samples=4000, block=16)
    exact = plan.epoch_length()
    assert exact == plan.packs_in_epoch(0)
    monkeypatch.setattr("mmcomponents.data.packing.pack_plan.COUNTED_BLOCKS", 100)
    assert random_plan(samples=4000, block=16).epoch_length() == pytest.approx(exact, rel=0.03)


def test_a_checkpoint_may_be_written_while_a_thread_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcomponents.data.packing.pack_plan.KEPT_BLOCKS", 2)
    alone = random_plan(block=16)
    wanted = [alone.pack(number) for number in range(300)]
    plan, stop = random_plan(block=16), threading.Event()

    def keep_asking() -> None:
        number = 0
        while not stop.is_set():
            plan.bookmark(number % 300)
            number += 7

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    other = threading.Thread(target=keep_asking)
    other.start()
    try:
        assert [plan.pack(number) for number in range(300)] == wanted
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(interval)


def test_a_plan_can_be_sent_to_another_process() -> None:
    plan = random_plan()
    assert pickle.loads(pickle.dumps(plan)).pack(5) == plan.pack(5)
