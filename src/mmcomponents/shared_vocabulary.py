"""File of the words that several tokenizers share, in one order for all of them (LangBridge, arXiv 2503.19404).

    words       in the order of the coefficients
    ids [V]     their token ids in the tokenizer of one language model
    rows [V, d] its embeddings of them, as they were when the file was written; a file without weights has none

A model has a file of its own, and all files that are made together have the same words in the same order. It is a
safetensors file; words and fingerprint are in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmcomponents.model_files import ModelFileError, check_weights_file

_FORMAT = "mmcomponents shared vocabulary"


class VocabularyError(ValueError):
    """A file of a shared vocabulary cannot be used; the message is one line."""


@dataclass(frozen=True)
class SharedVocabulary:
    """Words with their token ids in the tokenizer of one language model.

    Args:
        words: The words as texts, most frequent first.
        ids: `[V]` int64.
        tokenizer: Fingerprint of the tokenizer's vocabulary.
        rows: `[V, d]` embeddings of the words; None without weights.

    Raises:
        VocabularyError: The numbers of words, ids and rows differ, a word or an id is there twice, or an embedding is
            not finite.
    """

    words: tuple[str, ...]
    ids: Tensor
    tokenizer: str
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        counts = {"words": len(self.words), "ids": self.ids.numel()}
        if self.rows is not None:
            counts["rows"] = self.rows.shape[0]
        if len(set(counts.values())) > 1 or not self.words:
            raise VocabularyError(f"a shared vocabulary has {', '.join(f'{n} {name}' for name, n in counts.items())}")
        if len(set(self.words)) < len(self.words) or self.ids.unique().numel() < self.ids.numel():
            raise VocabularyError(f"a shared vocabulary of {len(self.words)} words has one of them twice")
        if int(self.ids.min()) < 0:
            raise VocabularyError(f"a shared vocabulary has the id {int(self.ids.min())}")
        if self.rows is not None and not bool(self.rows.isfinite().all()):
            raise VocabularyError("embeddings of a shared vocabulary are NaN or infinite")

    @property
    def digest(self) -> bytes:
        """SHA-256 of the words in their order: files with equal digests can stand in for one another."""
        return hashlib.sha256(json.dumps(self.words).encode()).digest()

    def save(self, path: Path) -> None:
        """Writes the file."""
        tensors = {"ids": self.ids} | ({} if self.rows is None else {"rows": self.rows.contiguous()})
        words = json.dumps(self.words)  # with escapes, since a token may have a character that UTF-8 lacks
        save_file(tensors, path, {"format": _FORMAT, "words": words, "tokenizer": self.tokenizer})

    @staticmethod
    def read(path: str | Path) -> SharedVocabulary:
        """Reads a file.

        Raises:
            VocabularyError: There is no such file, or it is no shared vocabulary.
        """
        try:
            check_weights_file(Path(path))
            with torch.device("cpu"), safe_open(path, "pt") as file:
                given, names = file.metadata() or {}, set(file.keys())
                if given.get("format") != _FORMAT or "ids" not in names:
                    raise VocabularyError(f"{path} is no shared vocabulary")
                words, rows = json.loads(given["words"]), file.get_tensor("rows") if "rows" in names else None
                found = (tuple(words), file.get_tensor("ids").long(), given["tokenizer"], rows)
        except FileNotFoundError:
            raise VocabularyError(
                f"there is no shared vocabulary {path}; `mmcomponents data vocabulary` makes one"
            ) from None
        except (OSError, SafetensorError, ModelFileError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise VocabularyError(f"{path} is no shared vocabulary: {error}") from error
        try:
            return SharedVocabulary(*found)
        except VocabularyError as error:
            raise VocabularyError(f"{path}: {error}") from None
