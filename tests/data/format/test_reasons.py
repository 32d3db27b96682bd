from __future__ import annotations

from mmcomponents.data.format.reasons import ReasonCounts, few, kind_of


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
        ("7 images", 2, "a"),
    ]


def test_a_few_lines_tell_each_reason_once_with_its_first_names() -> None:
    assert few([]) == ""
    assert few(["a/1: empty", "b is missing", "c is missing"]) == "a/1: empty; b is missing; c is missing"
    assert few([f"a/{n}: the size 'x{n}': odd" for n in range(5)]) == "a/0, a/1, a/2, …: the size 'x0': odd"
    assert few([f"{letter}: {letter}" for letter in "abcd"]) == "a: a; b: b; c: c; …"
