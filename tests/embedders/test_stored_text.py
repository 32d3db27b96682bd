"""Features of known texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmcomponents.companions.text_features import TextFeatureError, TextFeatures
from mmcomponents.embedders import StoredText

ROWS = torch.arange(20.0).view(5, 4)


def file(folder: Path) -> str:
    path = folder / "goals.safetensors"
    TextFeatures(("a", "b c"), torch.tensor([7, 3, 9, 1, 2]), torch.tensor([2, 3]), ROWS, "none").save(path)
    return str(path)


def test_texts_are_found_by_their_tokens(tmp_path: Path) -> None:
    text = StoredText(file(tmp_path), 4)
    found = text(torch.tensor([9, 1, 2, 7, 3, 9, 1, 2]), [3, 2, 3])
    assert torch.equal(found, torch.cat((ROWS[2:], ROWS[:2], ROWS[2:])))
    assert not text.state_dict()
    assert text.tokenizer_fingerprint == "none"
    with pytest.raises(TextFeatureError, match=r"a text of 2 tokens \(7, 4…\) is none of the 2 in"):
        text(torch.tensor([7, 4]), [2])


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextFeatureError, match=r"StoredText has width 5, and .* features of width 4"):
        StoredText(file(tmp_path), 5)
    with pytest.raises(TextFeatureError, match=r"there are no text features nowhere.safetensors"):
        StoredText("nowhere.safetensors", 4)


def test_a_part_on_the_meta_device_reads_the_file_later(tmp_path: Path) -> None:
    path = file(tmp_path)
    with torch.device("meta"):
        StoredText("nowhere.safetensors", 4)
        text = StoredText(path, 4)
    text.set_buffers(text.buffer_values("cpu"))
    assert torch.equal(text(torch.tensor([7, 3]), [2]), ROWS[:2])
