from __future__ import annotations

import numpy as np
import pytest

from data.packing.listed_epochs import ListedEpochs
from mmcomponents.data.inspection import first_fit, measure_balance, measure_packing
from mmcomponents.data.packing.pack_plan import Budgets, PackPlan


def test_first_fit_takes_the_first_pack_with_room_in_both_budgets() -> None:
    tokens, tiles = np.array([60, 50, 30, 10, 45]), np.array([3, 1, 1, 2, 0])
    assert first_fit(tokens, tiles, Budgets(100, 4)) == [[0, 2], [1, 3], [4]]
    assert first_fit(tokens, tiles, Budgets(100, None)) == [[0, 2, 3], [1, 4]]
    assert first_fit(np.array([90, 90, 10]), np.zeros(3, np.int64), Budgets(100, 4)) == [[0, 2], [1]]
    assert first_fit(np.zeros(0, np.int64), np.zeros(0, np.int64), Budgets(100, 4)) == []


def test_balance_is_taken_step_by_step() -> None:
    balance = measure_balance(np.array([90, 110, 30, 30, 999]), np.array([0, 0, 1, 3, 0]), packs_per_step=2)
    assert balance.packs == 5
    assert (balance.token_spread, balance.token_peak) == pytest.approx((0.05, 1.05))
    assert (balance.tile_spread, balance.tile_peak) == pytest.approx((0.5, 1.5))  # of the step that has tiles
    alone = measure_balance(np.array([10, 30]), np.zeros(2, np.int64), packs_per_step=8)
    assert (alone.token_spread, alone.token_peak) == pytest.approx((0.5, 1.5))
    assert (alone.tile_spread, alone.tile_peak) == (0, 1)


def load(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns texts, single images, several images and videos, one kind after the other, as in shards."""
    draw = np.random.default_rng(0)
    kind = np.sort(draw.choice(4, samples, p=[0.25, 0.35, 0.3, 0.1]))
    text = np.clip(draw.lognormal(6, 1, samples), 20, 12_000).astype(np.int64)
    images = draw.choice([1, 3, 5, 7, 9, 10, 13], samples)
    tiles = np.select([kind == 0, kind == 1, kind == 2], [0, images, draw.integers(2, 13, samples)], 0)
    tiles[kind == 3] = draw.integers(8, 33, int((kind == 3).sum()))
    return np.where(kind == 0, text, np.minimum(text // 3, 3000)) + 258 * tiles, tiles


@pytest.mark.parametrize("tile_budget", [48, 64, None])
def test_planned_packs_are_fewer_and_more_alike_than_those_of_a_first_fit(tile_budget: int | None) -> None:
    budgets = Budgets(16_384, tile_budget)
    tokens, tiles = load(6000)
    found = measure_packing(PackPlan(ListedEpochs(tokens, tiles, budgets, 0), budgets, 0))
    assert found.exact
    assert found.samples == 6000
    planned, plain = found.planned, found.first_fit
    assert found.packs == planned.packs < plain.packs
    assert planned.token_spread < plain.token_spread
    assert planned.token_peak < plain.token_peak
    assert planned.tile_spread < plain.tile_spread
    assert planned.tile_peak < plain.tile_peak
    assert found.token_fill == pytest.approx(tokens.sum() / (found.packs * 16_384))
    if tile_budget is not None:
        assert found.tile_fill == pytest.approx(tiles.sum() / (found.packs * tile_budget))
    assert found.samples_per_pack == pytest.approx(6000 / found.packs)


def test_of_many_blocks_some_are_planned() -> None:
    budgets = Budgets(1000, None)
    tokens = np.random.default_rng(1).integers(20, 300, 4000)
    plan = PackPlan(ListedEpochs(tokens, np.zeros(4000, np.int64), budgets, 0, block=100), budgets, 0)
    told: list[tuple[int, int]] = []
    found = measure_packing(plan, most_blocks=8, progress=lambda done, total: told.append((done, total)))
    assert (found.planned_blocks, found.blocks, found.exact) == (8, 40, False)
    assert found.samples == 800
    assert told == [(number + 1, 8) for number in range(8)]
    assert found.packs == pytest.approx(plan.packs_in_epoch(0), rel=0.05)
    assert found.tile_fill is None
    with pytest.raises(ValueError, match="packs_per_step 0"):
        measure_packing(plan, packs_per_step=0)
