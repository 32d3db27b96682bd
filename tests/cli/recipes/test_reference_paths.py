from __future__ import annotations

import pytest

from mmcomponents.cli.recipes.reference_paths import absolute, plain_data

MOVED = {"pack_tokens": "packing.tokens"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${.b}", "${data.init_args.b}"),
        ("x ${ ..class_path } y", "x ${ data.class_path } y"),
        ("${...model.width}", "${model.width}"),
        ("${oc.decode:${.b}}", "${oc.decode:${data.init_args.b}}"),
        ("${oc.env:A,${.b}}", "${oc.env:A,${data.init_args.b}}"),
        ("${....b}", "${....b}"),  # above the root: reported when it is resolved
        (r"\${.b}", r"\${.b}"),
        ("${model.width}", "${model.width}"),
        (".b", ".b"),
    ],
)
def test_relative_references_become_absolute(text: str, expected: str) -> None:
    assert absolute({"a": text, "n": 1}, ["data", "init_args"]) == {"a": expected, "n": 1}
    assert absolute(["${.b}"], ["data", "init_args"]) == ["${data.init_args.b}"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${data.pack_tokens}", "${data.packing.tokens}"),
        ("${data.init_args.pack_tokens}", "${data.packing.tokens}"),
        ("${data[pack_tokens]}", "${data.packing.tokens}"),
        ("${data.init_args.width}", "${data.width}"),
        ("${data.pack_tokens.more}", "${data.packing.tokens.more}"),
        ("${oc.decode:${data.pack_tokens}} of ${data.width}", "${oc.decode:${data.packing.tokens}} of ${data.width}"),
        ("${data.pack_tokens_2}", "${data.pack_tokens_2}"),
        ("${model.pack_tokens}", "${model.pack_tokens}"),
        ("${oc.env:data.pack_tokens}", "${oc.env:data.pack_tokens}"),
        ("${data.pack_tokens:x}", "${data.pack_tokens:x}"),
        (r"\${data.pack_tokens}", r"\${data.pack_tokens}"),
        ("data.pack_tokens", "data.pack_tokens"),
        ("${data}", "${data}"),
    ],
)
def test_references_to_the_data_have_its_plain_form(text: str, expected: str) -> None:
    assert plain_data({"a": [text, 1]}, MOVED) == {"a": [expected, 1]}
