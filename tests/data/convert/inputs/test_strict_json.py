from __future__ import annotations

import pytest

from mmcomponents.data.convert.inputs.strict_json import JsonProblem, parse_json


def test_json_is_parsed() -> None:
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json(f"[{'[],' * 200}[]]")
    assert parse_json('{"a": [1, {"a": 2.5}], "b": null}') == {"a": [1, {"a": 2.5}], "b": None}


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ('{"a": 1,\n "b" 2}', "Expecting ':' delimiter at character 6", 2),
        ("", "Expecting value at character 1", 1),
        ('{"a": 1, "b": 2, "a": 1}', "duplicate key 'a' in an object", 0),
        ('[{"c": {"b": 2, "b": 3}}]', "duplicate key 'b' in an object", 0),
        ("[NaN]", "NaN is not JSON", 0),
        ("[-Infinity]", "-Infinity is not JSON", 0),
        ("1" * 5000, "^a number has too many digits$", 0),
        ("[" * 100_000, "nested too deeply", 0),
        ("[" * 101 + "]" * 101, "nested too deeply", 0),
        ('{"a": [' * 51 + "]}" * 51, "nested too deeply", 0),
    ],
)
def test_what_is_no_json(text: str, reason: str, line: int) -> None:
    with pytest.raises(JsonProblem, match=reason) as found:
        parse_json(text)
    assert found.value.line == line
