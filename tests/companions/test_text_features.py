"""Files of text features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmcomponents.companions.text_features import TextFeatureError, TextFeatures


def made(**changes: Any) -> TextFeatures:
    values: dict[str, Any] = {
        "texts": ("a", "b c"),
        "ids": torch.tensor([7, 3, 9]),
        "lengths": torch.tensor([1, 2]),
        "features": torch.arange(6.0).view(3, 2),
        "tokenizer": "t",
        "model": "m",
    }
    return TextFeatures(**{**values, **changes})


def test_a_file_has_what_was_written(tmp_path: Path) -> None:
    made().save(tmp_path / "f.safetensors")
    found = TextFeatures.read(tmp_path / "f.safetensors")
    assert (found.texts, found.tokenizer, found.model) == (("a", "b c"), "t", "m")
    assert found.tokens() == [(7,), (3, 9)]
    assert torch.equal(found.features, made().features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": ("a",)}, "1 texts, lengths of 2"),
        ({"lengths": torch.tensor([1, 3])}, "with 4 tokens, 3 ids"),
        ({"lengths": torch.tensor([0, 3])}, "the text 'a' has no tokens"),
        ({"ids": torch.tensor([7, 7]), "lengths": torch.tensor([1, 1]), "features": torch.zeros(2, 2)}, "same tokens"),
        ({"features": torch.full((3, 2), torch.nan)}, "NaN or infinite"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TextFeatureError, match=message):
        made(**changes)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextFeatureError, match="there are no text features"):
        TextFeatures.read(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(TextFeatureError, match="has no text features"):
        TextFeatures.read(tmp_path / "other.safetensors")
