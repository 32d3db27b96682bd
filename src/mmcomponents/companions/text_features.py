"""File of features of a list of texts, computed once by a frozen language model.

    texts, tokenizer, model   the texts, fingerprint of the tokenizer, name of the language model (metadata)
    lengths [n], ids [E]      number of tokens of each text, and their token ids
    features [E, c]           last hidden states of the language model

It is a safetensors file and takes the place of the language model where the texts of a run are known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmcomponents.model_files import ModelFileError, check_weights_file

_FORMAT = "mmcomponents text features"


class TextFeatureError(ValueError):
    """A file of text features cannot be used, or lacks a text; the message is one line."""


@dataclass(frozen=True)
class TextFeatures:
    """Texts with the features of their tokens.

    Args:
        texts: Texts in the order of `lengths`.
        ids: `[E]` int64 token ids, one text after the other.
        lengths: `[n]` int64 number of tokens of each text.
        features: `[E, c]`.
        tokenizer: Fingerprint of the tokenizer's vocabulary.
        model: Name of the language model, for people.

    Raises:
        TextFeatureError: Numbers of texts, tokens and features differ, a text has no tokens or is there twice, or a
            feature is not finite.
    """

    texts: tuple[str, ...]
    ids: Tensor
    lengths: Tensor
    features: Tensor
    tokenizer: str
    model: str = ""

    def __post_init__(self) -> None:
        total = int(self.lengths.sum())
        if len(self.texts) != len(self.lengths) or not self.texts or not total == len(self.ids) == len(self.features):
            raise TextFeatureError(
                f"text features have {len(self.texts)} texts, lengths of {len(self.lengths)} with {total} tokens,"
                f" {len(self.ids)} ids and {len(self.features)} features"
            )
        if int(self.lengths.min()) < 1:
            raise TextFeatureError(f"the text {self.texts[int(self.lengths.argmin())]!r:.60} has no tokens")
        if len({*self.tokens()}) < len(self.texts):
            raise TextFeatureError(f"of {len(self.texts)} texts, two have the same tokens")
        if not bool(self.features.isfinite().all()):
            raise TextFeatureError("text features are NaN or infinite")

    def tokens(self) -> list[tuple[int, ...]]:
        """Returns the token ids of each text."""
        return [tuple(part.tolist()) for part in self.ids.split(self.lengths.tolist())]

    def save(self, path: str | Path) -> None:
        """Writes the file."""
        tensors = {"ids": self.ids, "lengths": self.lengths, "features": self.features.contiguous()}
        texts = json.dumps(self.texts)
        save_file(tensors, path, {"format": _FORMAT, "texts": texts, "tokenizer": self.tokenizer, "model": self.model})

    @staticmethod
    def read(path: str | Path) -> TextFeatures:
        """Reads a file.

        Raises:
            TextFeatureError: There is no such file, or it has no text features.
        """
        try:
            check_weights_file(Path(path))
            with torch.device("cpu"), safe_open(path, "pt") as file:
                given = file.metadata() or {}
                if given.get("format") != _FORMAT:
                    raise TextFeatureError(f"{path} has no text features")
                tensors = {name: file.get_tensor(name) for name in ("ids", "lengths", "features")}
                texts, tokenizer, model = json.loads(given["texts"]), given["tokenizer"], given.get("model", "")
        except FileNotFoundError:
            raise TextFeatureError(
                f"there are no text features {path}: the command that makes the shards writes them"
            ) from None
        except (OSError, SafetensorError, ModelFileError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise TextFeatureError(f"{path} has no text features: {error}") from error
        try:
            return TextFeatures(tuple(texts), **tensors, tokenizer=tokenizer, model=model)
        except TextFeatureError as error:
            raise TextFeatureError(f"{path}: {error}") from None
