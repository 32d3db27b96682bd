from __future__ import annotations

from collections import Counter

import pytest

from data.conftest import golden
from mmcomponents.data.media.frames import MiddleFrames, RandomFrames, draw_frame_count

FIGURES = golden("i_frame_indices")


def test_the_middle_frames_of_the_reference() -> None:
    figures = [f for f in FIGURES["deterministic"] if f["sample"] == "middle" and f["fix_start"] is None]
    assert len(figures) >= 10
    for figure in figures:
        found = MiddleFrames(figure["num_frames"]).indices(figure["vlen"], figure["input_fps"])
        assert found == figure["indices"], figure


def test_random_choices_of_the_reference() -> None:
    for figure in FIGURES["random"]:
        chosen = RandomFrames(figure["num_frames"], figure["seed_random_and_numpy"]).indices(figure["vlen"], 30.0)
        assert chosen == figure["indices"], figure


def test_random_frames_depend_on_the_seed_alone() -> None:
    draws = [tuple(RandomFrames(8, f"0/0/{sample}").indices(300, 25.0)) for sample in range(20)]
    assert len(set(draws)) == 20
    assert draws[3] == tuple(RandomFrames(8, "0/0/3").indices(300, 25.0))
    for draw in draws:
        assert list(draw) == sorted(set(draw))
        assert all(300 * k // 8 <= index < 300 * (k + 1) // 8 - 1 for k, index in enumerate(draw))


def test_where_an_interval_has_one_frame_any_subset_is_drawn() -> None:
    draws = [RandomFrames(8, seed).indices(10, 1.0) for seed in range(50)]
    assert all(draw == sorted(set(draw)) and len(draw) == 8 and 0 <= draw[0] <= draw[-1] < 10 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 10


def test_the_number_of_frames_is_drawn_evenly() -> None:
    counts = Counter(draw_frame_count(8, 32, f"{sample}") for sample in range(5000))
    assert set(counts) == set(range(8, 33))
    assert max(counts.values()) < 2 * min(counts.values())
    assert draw_frame_count(8, 32, 5) == draw_frame_count(8, 32, 5)
    with pytest.raises(ValueError, match="least 3, most 2"):
        draw_frame_count(3, 2, 0)


def test_impossible_choices_are_refused() -> None:
    for make in (lambda: MiddleFrames(0), lambda: RandomFrames(-1)):
        with pytest.raises(ValueError, match="num_frames must be positive"):
            make()
    with pytest.raises(ValueError, match="of 0 frames at 30"):
        MiddleFrames(3).indices(0, 30)
    with pytest.raises(ValueError, match="of 9 frames at 0"):
        MiddleFrames(3).indices(9, 0)


def test_a_number_beyond_all_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 100000"):
        MiddleFrames(10**9)
