from __future__ import annotations

import subprocess
import sys

import numpy as np

from mmcomponents.draws import keyed


def test_a_draw_depends_on_all_words() -> None:
    first = keyed(1, 0, "noise").random(4)
    assert np.array_equal(first, keyed(1, 0, "noise").random(4))
    for words in ((2, 0, "noise"), (1, 1, "noise"), (1, 0, "time"), (1, 0), (1, 0, "noise", 0), ("1", 0, "noise")):
        assert not np.array_equal(first, keyed(*words).random(4)), words
    assert not np.array_equal(keyed(1, 12).random(4), keyed(11, 2).random(4))


def test_draws_are_equal_in_another_process() -> None:
    """Texts hash to other numbers in each process, which must not matter."""
    code = "from mmcomponents.draws import keyed; print(keyed(7, 'noise', 'ä').integers(2**40))"
    found = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()}
    assert found == {str(keyed(7, "noise", "ä").integers(2**40))}


def test_a_value_is_that_of_earlier_versions() -> None:
    """A run that was started by an earlier version resumes with the same draws."""
    assert keyed(3, 1, 7, 0, "noise").integers(2**40, size=2).tolist() == [712958849527, 205064106762]
