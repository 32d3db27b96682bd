from __future__ import annotations

from mmcomponents.data.format.reasons import ReasonCounts, kind_of


def test_what_differs_from_sample_to_sample_is_no_other_reason() -> None:
    assert kind_of("the member name '../x' leaves the folder") == kind_of("the member name '/y' leaves the folder")
    assert {kind_of(f"{tokens} tokens, a pack takes 8") for tokens in (9, 12)} == {"more tokens than the 8 of a pack"}
    assert kind_of("9 tiles, a pack takes 8") == "more tiles than the 8 of a pack"
    assert len(kind_of("x" * 500)) == 160


def test_reasons_are_counted() -> None:
    counts = ReasonCounts()
    given = (("7 images", "a"), ("empty", "b"), ("8 images", "c"))
    assert [counts.add(reason, name) for reason, name in given] == [1, 1, 2]
    assert [counts.add("empty", name) for name in "de"] == [2, 3]
    assert counts.samples == 5
    assert [(found.reason, found.samples, found.first) for found in counts.listed()] == [
        ("empty", 3, "b"),
        ("… images", 2, "a"),
    ]
