from __future__ import annotations

import pickle

import numpy as np

from ladder_parts import Drawn, Part, solution
from mmcomponents.demos.handwriting.scenes import SceneStyle, load_scans, lookalikes


def test_a_solution_has_a_step_for_each_digit() -> None:
    steps = ["Digit 1 is 7.", "Digit 2 is 5. 7 + 5 = 12", "Digit 3 is 3. 12 + 3 = 15", "Answer: 15"]
    assert solution([7, 5, 3]) == "\n\n".join(steps)


def test_a_sample_is_a_matter_of_its_number_alone() -> None:
    scans, digits = load_scans()
    style = SceneStyle(28, (20, 26), (1, 1, 1), (2, 1, 0))
    part = Part("mistakes", 6, style, asks="verdicts")
    drawn = Drawn(part, scans, digits, lookalikes(scans, digits, np.arange(100)), np.arange(100), (3, 4))
    elsewhere = pickle.loads(pickle.dumps(drawn))
    ahead = [drawn[number] for number in range(len(drawn))]
    assert [elsewhere[number] for number in reversed(range(6))] == ahead[::-1]
    assert len({png for _, png in ahead}) == 6
    assert all(scan < 100 for record, _ in ahead for scan in record["scans"])
    other = Drawn(part, scans, digits, lookalikes(scans, digits, np.arange(100)), np.arange(100), (3, 5))
    assert other[0][1] != drawn[0][1]
