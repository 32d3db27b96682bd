from __future__ import annotations

from collections import Counter

import pytest

from mmcomponents.data.frames import (
    FrameSampling,
    FramesPerSecond,
    MiddleFrames,
    OffsetFrames,
    RandomFrames,
    draw_frame_count,
)

from .conftest import golden

FIGURES = golden("i_frame_indices")


def sampling(figure: dict) -> FrameSampling:
    kind = figure["sample"]
    if kind.startswith("fps"):  # there, fix_start is ignored
        limit = figure["max_num_frames"]
        return FramesPerSecond(float(kind.removeprefix("fps")), None if limit < 0 else limit)
    if figure["fix_start"] is None:
        return MiddleFrames(figure["num_frames"])
    return OffsetFrames(figure["num_frames"], figure["fix_start"])


def test_every_choice_of_the_reference() -> None:
    figures = FIGURES["deterministic"]
    assert len(figures) > 50
    for figure in figures:
        total = figure["vlen"]
        expected = [min(index, total - 1) for index in figure["indices"]]  # the reference may point past the end
        assert sampling(figure).indices(total, figure["input_fps"]) == expected, figure


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


def test_a_limit_cuts_behind() -> None:
    assert FramesPerSecond(1.0, 3).indices(300, 30.0) == FramesPerSecond(1.0).indices(300, 30.0)[:3]


def test_the_number_of_frames_is_drawn_evenly() -> None:
    counts = Counter(draw_frame_count(8, 32, f"{sample}") for sample in range(5000))
    assert set(counts) == set(range(8, 33))
    assert max(counts.values()) < 2 * min(counts.values())
    assert draw_frame_count(8, 32, 5) == draw_frame_count(8, 32, 5)
    with pytest.raises(ValueError, match="least 3, most 2"):
        draw_frame_count(3, 2, 0)


def test_impossible_choices_are_refused() -> None:
    for make in (
        lambda: MiddleFrames(0),
        lambda: RandomFrames(-1),
        lambda: OffsetFrames(0),
        lambda: FramesPerSecond(1, 0),
    ):
        with pytest.raises(ValueError, match="num_frames must be positive"):
            make()
    with pytest.raises(ValueError, match="fps must be positive"):
        FramesPerSecond(0.0)
    with pytest.raises(ValueError, match="offset"):
        OffsetFrames(3, -1)
    with pytest.raises(ValueError, match="of 0 frames at 30"):
        MiddleFrames(3).indices(0, 30)
    with pytest.raises(ValueError, match="of 9 frames at 0"):
        FramesPerSecond().indices(9, 0)


def test_a_number_beyond_all_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 100000"):
        MiddleFrames(10**9)
    with pytest.raises(ValueError, match="finite"):
        FramesPerSecond(float("inf"))
    with pytest.raises(ValueError, match="chooses more than 1000000"):
        FramesPerSecond(1.0).indices(10, 1e-9)
    assert len(FramesPerSecond(2.0, max_frames=3).indices(100, 25.0)) == 3
