from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmcomponents.data.errors import DataError
from mmcomponents.data.packing.base import Packer, Shares
from mmcomponents.data.packing.checked_packs import balanced_packs, checked_packs

SIZES = np.full((4, 2), 0.5)


class Fixed(Packer):
    """A packer that returns what it is given, whatever the sizes."""

    def __init__(self, packs: Any) -> None:
        self.packs = packs

    def pack(self, sizes: Shares) -> list[list[int]]:
        if isinstance(self.packs, Exception):
            raise self.packs
        return self.packs  # type: ignore[no-any-return]

    def balance(self, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
        return self.pack(sizes)


@pytest.mark.parametrize(
    ("packs", "message"),
    [
        (None, "cannot pack samples: TypeError"),
        ([0, 1, 2, 3], "cannot pack samples: TypeError"),
        ([["a"]], "packs are lists of integers"),
        ([[0.5, 1], [2, 3]], "packs are lists of integers"),
        (RuntimeError("it is\nbroken"), "cannot pack samples: RuntimeError: it is broken"),
    ],
)
def test_what_is_no_packing_is_one_line_that_names_the_packer(packs: Any, message: str) -> None:
    with pytest.raises(DataError, match=r"^the packer .*Fixed") as caught:
        checked_packs(Fixed(packs), SIZES)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot balance samples"):
        balanced_packs(Fixed(packs), SIZES, [[0, 1], [2, 3]])


def test_empty_packs_and_numpy_integers_are_fine() -> None:
    found = checked_packs(Fixed([np.array([0, 1]), [], (2, np.int64(3))]), SIZES)
    assert found == [[0, 1], [2, 3]]
    assert all(type(number) is int for pack in found for number in pack)
