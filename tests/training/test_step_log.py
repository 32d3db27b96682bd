from __future__ import annotations

import math

import pytest

from mmcomponents.training.step_log import data_metrics


def test_what_a_step_is_made_of() -> None:
    totals = {
        "weight": 3.0,
        "data/packs": 4.0,
        "data/refused": 2.0,
        "data/capacity": 400.0,
        "data/tokens": 90.0 + 100.0 + 80.0 + 50.0,
        "data/tokens_squared": 90.0**2 + 100.0**2 + 80.0**2 + 50.0**2,
        "data/tiles": 8.0,
        "data/tiles_squared": 4 * 4.0,
        "data/tokens/0": 300.0,
        "data/tokens/1": 20.0,
        "data/samples/0": 7.0,
        "data/samples/1": 0.0,
    }
    found = data_metrics(totals, lambda number: ["pictures", "books"][int(number)])
    assert found == {
        "data/fill": pytest.approx(0.8),
        "data/refused": 2.0,
        "data/tokens/pictures": 300.0,
        "data/tokens/books": 20.0,
        "data/samples/pictures": 7.0,
        "data/samples/books": 0.0,
        "data/spread_tokens": pytest.approx(math.sqrt((10**2 + 20**2 + 0 + 30**2) / 4) / 80),
        "data/spread_tiles": 0.0,
    }


def test_one_pack_has_no_spread_and_other_loaders_count_nothing() -> None:
    totals = {
        "data/packs": 1.0,
        "data/refused": 0.0,
        "data/capacity": 10.0,
        "data/tokens": 5.0,
        "data/tokens_squared": 25.0,
    }
    totals |= {"data/tiles": 0.0, "data/tiles_squared": 0.0}
    assert data_metrics(totals, str) == {"data/fill": 0.5, "data/refused": 0.0}
    assert data_metrics({"weight": 1.0}, str) == {}
