"""Files of shared vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmcomponents.shared_vocabulary import SharedVocabulary, VocabularyError

WORDS = (" cat", "dog", "\ud800")


def test_a_file_holds_what_was_saved(tmp_path: Path) -> None:
    rows = torch.randn(3, 4, dtype=torch.bfloat16)
    SharedVocabulary(WORDS, torch.tensor([5, 2, 9]), "abc", rows).save(tmp_path / "w.safetensors")
    found = SharedVocabulary.read(tmp_path / "w.safetensors")
    assert (found.words, found.ids.tolist(), found.tokenizer) == (WORDS, [5, 2, 9], "abc")
    assert torch.equal(found.rows, rows)


def test_the_digest_depends_on_words_and_order_alone() -> None:
    one = SharedVocabulary(WORDS, torch.tensor([5, 2, 9]), "abc")
    assert one.digest == SharedVocabulary(WORDS, torch.tensor([0, 1, 2]), "x", torch.randn(3, 7)).digest
    assert one.digest != SharedVocabulary(WORDS[::-1], torch.tensor([9, 2, 5]), "abc").digest


def test_what_is_no_shared_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"there is no shared vocabulary .*data vocabulary` makes one"):
        SharedVocabulary.read(tmp_path / "w.safetensors")
    save_file({"ids": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("words")
    for name in ("other", "text"):
        with pytest.raises(VocabularyError, match=rf"{name}\.safetensors is no shared vocabulary"):
            SharedVocabulary.read(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(
    ("words", "ids", "rows", "message"),
    [
        (("a", "b"), [1], None, "2 words, 1 ids"),
        (("a", "b"), [1, 2], torch.zeros(3, 4), "2 words, 2 ids, 3 rows"),
        ((), [], None, "0 words"),
        (("a", "a"), [1, 2], None, "one of them twice"),
        (("a", "b"), [1, 1], None, "one of them twice"),
        (("a", "b"), [1, -1], None, "has the id -1"),
        (("a", "b"), [1, 2], torch.tensor([[0.0], [torch.nan]]), "NaN or infinite"),
    ],
)
def test_numbers_and_words_are_checked(words, ids, rows, message) -> None:
    with pytest.raises(VocabularyError, match=message):
        SharedVocabulary(words, torch.tensor(ids), "abc", rows)


def test_a_fault_names_the_file(tmp_path: Path) -> None:
    words = {"format": "mmcomponents shared vocabulary", "words": '["a", "a"]', "tokenizer": "abc"}
    save_file({"ids": torch.tensor([1, 2])}, tmp_path / "w.safetensors", words)
    with pytest.raises(VocabularyError, match=r"w\.safetensors: a shared vocabulary of 2 words has one of them twice"):
        SharedVocabulary.read(tmp_path / "w.safetensors")
