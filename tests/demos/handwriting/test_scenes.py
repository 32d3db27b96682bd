from __future__ import annotations

import numpy as np

from mmcomponents.demos.handwriting.scenes import lookalikes


def test_a_scan_looks_like_the_nearest_of_another_digit() -> None:
    scans = np.zeros((4, 8, 8), np.float32)
    scans[1, 0, 0], scans[2, 0, 0], scans[3, 0, 0] = 0.1, 0.4, 1.0
    digits = np.array([3, 3, 5, 7])
    assert lookalikes(scans, digits, np.arange(4)).tolist() == [5, 5, 3, 5]


def test_scans_that_are_not_searched_tell_nothing() -> None:
    scans = np.zeros((4, 8, 8), np.float32)
    scans[1, 0, 0], scans[2, 0, 0], scans[3, 0, 0] = 0.1, 0.4, 1.0
    digits = np.array([3, 3, 5, 7])
    assert lookalikes(scans, digits, np.array([0, 1, 3]))[[0, 1, 3]].tolist() == [7, 7, 3]
