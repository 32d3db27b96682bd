from __future__ import annotations

import pytest

from mmcomponents.cli.recipes.merging import merge, same_class


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # another class drops the arguments, however it is named
        ({"class_path": "A", "init_args": {"x": 1}}, {"class_path": "B"}, {"class_path": "B"}),
        ({"class_path": "A", "init_args": {"x": 1}}, "B", {"class_path": "B"}),
        ({"class_path": "p.A", "init_args": {"x": 1}}, {"class_path": "q.A"}, {"class_path": "q.A"}),
        # the same class keeps them, whether its path is short or long
        ({"class_path": "A", "init_args": {"x": 1}}, "A", {"class_path": "A", "init_args": {"x": 1}}),
        (
            {"class_path": "p.A", "init_args": {"x": 1}},
            {"class_path": "p.sub.A", "init_args": {"y": 2}},
            {"class_path": "p.sub.A", "init_args": {"x": 1, "y": 2}},
        ),
        # arguments without a class are merged into the existing class
        ("A", {"init_args": {"x": 1}}, {"class_path": "A", "init_args": {"x": 1}}),
        ({"class_path": "A", "init_args": {"x": 1}}, None, None),
        ({"class_path": "A", "init_args": {"x": 1}}, "${model.other}", "${model.other}"),
        ({"class_path": "A"}, "a_b", "a_b"),  # a plain value, such as a strategy's name
        ({"class_path": "A"}, False, False),
        ({"class_path": "A"}, "p.a_function", {"class_path": "p.a_function"}),
        ([1, 2], [3], [3]),
    ],
)
def test_merge_of_a_part(old: object, new: object, expected: object) -> None:
    base = {"part": old, "rest": 1}
    assert merge(base, {"part": new}) == {"part": expected, "rest": 1}
    assert base["part"] == old


def default_class(owner: str, argument: str) -> str | None:
    return {("model", "part"): "p.A", ("p.B", "inner"): "p.C"}.get((owner, argument))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # arguments without a class are those of the default class
        ({"init_args": {"x": 1}}, {"class_path": "p.B"}, {"class_path": "p.B"}),
        ({"x": 1}, {"class_path": "p.B"}, {"class_path": "p.B"}),
        ({"x": 1}, "p.B", {"class_path": "p.B"}),
        ({"x": 1}, {"class_path": "p.A"}, {"class_path": "p.A", "init_args": {"x": 1}}),
        ({"x": 1}, "A", {"class_path": "A", "init_args": {"x": 1}}),
        ({"init_args": {"x": 1}}, {"init_args": {"y": 2}}, {"init_args": {"x": 1, "y": 2}}),
        ({"x": 1}, {"y": 2}, {"x": 1, "y": 2}),
    ],
)
def test_merge_over_arguments_of_a_default_class(old: object, new: object, expected: object) -> None:
    assert merge({"model": {"part": old}}, {"model": {"part": new}}, default_class) == {"model": {"part": expected}}


def test_arguments_wait_for_a_class_where_there_is_no_default() -> None:
    base, delta = {"model": {"vision": {"init_args": {"x": 1}}}}, {"model": {"vision": {"class_path": "p.B"}}}
    merged = {"model": {"vision": {"class_path": "p.B", "init_args": {"x": 1}}}}
    assert merge(base, delta, default_class) == merged


def test_merge_over_arguments_of_a_nested_default_class() -> None:
    base = {"model": {"part": {"class_path": "p.B", "init_args": {"inner": {"init_args": {"x": 1}}}}}}
    for name, expected in (("p.D", {"class_path": "p.D"}), ("p.C", {"class_path": "p.C", "init_args": {"x": 1}})):
        delta = {"model": {"part": {"init_args": {"inner": {"class_path": name}}}}}
        assert merge(base, delta, default_class)["model"]["part"]["init_args"]["inner"] == expected


def test_names_of_the_same_class() -> None:
    assert same_class("p.A", "p.sub.A")
    assert same_class("A", "q.A")
    assert not same_class("p.A", "q.A")
    assert not same_class("p.A", "p.B")
