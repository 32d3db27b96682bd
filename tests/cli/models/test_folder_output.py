"""Options of written checkpoint folders."""

from __future__ import annotations

import pytest

from mmcomponents.cli.models import folder_output as output


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("700", 700)])
def test_sizes(text: str, size: int) -> None:
    assert output._size(text) == size
