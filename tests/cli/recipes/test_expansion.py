from __future__ import annotations

from mmcomponents.cli.recipes.expansion import Expansion


def test_references_count_as_what_they_refer_to() -> None:
    tree = {"a": {"x": 1, "y": [2, 3]}, "b": "${a}", "c": "${.b}-${a.y[0]}"}
    assert Expansion(tree).size("a") == 5
    assert Expansion(tree).size("b") == 1 + 5
    assert Expansion(tree).size("c") == 1 + 6 + 1
    assert Expansion(tree).size() == 1 + 5 + 6 + 8


def test_long_texts_count_more_and_cycles_end() -> None:
    assert Expansion({"a": "x" * 5000}).size() == 1 + 6
    assert Expansion({"a": "${b}", "b": "${a}"}).size() < 10
