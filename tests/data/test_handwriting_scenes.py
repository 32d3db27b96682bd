from __future__ import annotations

import numpy as np

from mmcomponents.data.handwriting_scenes import lookalikes


def test_a_scan_looks_like_the_nearest_of_another_digit() -> None:
    scans = np.zeros((4, 8, 8), np.float32)
    scans[1, 0, 0], scans[2, 0, 0], scans[3, 0, 0] = 0.1, 0.4, 1.0
    assert lookalikes(scans, np.array([3, 3, 5, 7])).tolist() == [5, 5, 3, 5]
