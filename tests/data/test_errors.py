from __future__ import annotations

import pytest

from mmcomponents.data.errors import demo_kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("data/pictures/train-*.tar", "pictures"),
        ("data/tabletop/tokenizer", "tabletop"),
        ("x/train.tar", "handwriting"),
    ],
)
def test_a_missing_path_is_made_by_the_command_of_its_name(path: str, kind: str) -> None:
    assert demo_kind(path) == kind
