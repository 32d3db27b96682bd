"""Verbs that load a model with the tokenizer and the renderer of its recipe's data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recipe_standins import Data, OtherData

from mmcomponents.cli.main import main
from mmcomponents.cli.models.model_loading import data_attributes
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.errors import DataError

Write = Callable[[str, str], Path]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("generate --prompt hi", "generate: OtherData has no tokenizer"),
        ("evaluate --benchmark q.jsonl --metric exact", "evaluate: OtherData has no tokenizer"),
        ("export --format mmcomponents --out out", "export: OtherData has no renderer of prompts"),
    ],
)
@pytest.mark.parametrize("by_flag", [True, False])
def test_data_without_what_a_verb_needs_is_one_line(
    write: Write, capsys: pytest.CaptureFixture[str], words: str, complaint: str, by_flag: bool
) -> None:
    write("q.jsonl", '{"question": "a", "answer": "b"}\n')
    section = "" if by_flag else "data: {class_path: recipe_standins.OtherData}\n"
    write("r.yaml", f"extends: quickstart\n{section}")
    flags = ["--data", "recipe_standins.OtherData", "--data.length", "3"] if by_flag else []
    assert main([*words.split(), "--config", "r.yaml", "--ckpt_path", "none.ckpt", *flags]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == f"mmcomponents: {complaint}"


def test_attributes_of_the_data() -> None:
    assert data_attributes("show", Data(3, 4), "width", "batch_size") == [3, 4]
    with pytest.raises(UserError, match=r"^show: the data class Data has no renderer, which show needs$"):
        data_attributes("show", Data(), "width", "renderer")
    with pytest.raises(UserError, match=r"^show: OtherData has no tokenizer$") as caught:
        data_attributes("show", OtherData(), "tokenizer")
    assert isinstance(caught.value.__cause__, DataError)
