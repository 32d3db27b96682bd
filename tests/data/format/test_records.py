from __future__ import annotations

import pytest

from mmcomponents.data.errors import SampleError
from mmcomponents.data.format.records import clips, parse_object, source_of


def test_an_object_is_expected() -> None:
    assert parse_object(b'{"a": 1}') == {"a": 1}
    with pytest.raises(SampleError, match="expected an object, got list"):
        parse_object(b"[]")


def test_a_source_is_a_text() -> None:
    assert source_of({"source": "books"}) == "books"
    assert [source_of(record) for record in ({}, {"source": None}, {"source": {"a": 1}}, {"source": 3})] == [""] * 4


def test_clips() -> None:
    assert clips({}, 2) == [None, None]
    assert clips({"clips": [[0, 1.5], None]}, 2) == [(0.0, 1.5), None]
    for wrong in ("ab", 3, [[1, 2]], [[1, 2], [1]], [[1, 2], "ab"], [[1, 2], [True, 2]], [[1, 2], ["1", "2"]]):
        with pytest.raises(SampleError, match="clip"):
            clips({"clips": wrong}, 2)
