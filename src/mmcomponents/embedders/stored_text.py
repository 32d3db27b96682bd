"""Features of known texts from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmcomponents.companions.text_features import TextFeatureError, TextFeatures
from mmcomponents.embedders.text_encoder import TextEncoder
from mmcomponents.limits import check_sizes


class StoredText(TextEncoder):
    """Features of a list of texts, which a frozen language model has computed before.

    It gives what that model gives, without its weights and at no cost. Other texts are an error.

    Args:
        features: File of the features (`mmcomponents.companions.text_features`). On the meta device it may be missing.
        width: Width of the features, c.

    Attributes:
        tokenizer_fingerprint: Fingerprint of the tokenizer that the file was made with; None without a file.

    Raises:
        TextFeatureError: The file is missing, or has features of another width.
    """

    files = ("features",)

    def __init__(self, features: str, width: int) -> None:
        super().__init__()
        check_sizes(width=width)
        self.features, self.width = str(features), width
        device = torch.empty(0).device
        stored = None if device.type == "meta" and not Path(self.features).exists() else self._read()
        self.tokenizer_fingerprint = None if stored is None else stored.tokenizer
        self._place: dict[tuple[int, ...], int] = {}  # token ids of a text -> its first row
        self._example = "" if stored is None else stored.texts[0]
        if stored is not None:
            begins = (stored.lengths.cumsum(0) - stored.lengths).tolist()
            self._place = dict(zip(stored.tokens(), begins, strict=True))
        rows: Tensor = torch.empty(0, width) if stored is None else stored.features.float().to(device)
        self.register_buffer("rows", rows, persistent=False)
        self.init_weights()

    def forward(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """Looks texts up, `[E]` to `[E, c]`.

        Raises:
            TextFeatureError: A text is not in the file.
        """
        places: list[int] = []
        for text in ids.split(lengths):
            key = tuple(text.tolist())
            if key not in self._place:
                raise TextFeatureError(
                    f"a text of {len(key)} tokens ({', '.join(map(str, key[:6]))}…) is none of the"
                    f" {len(self._place)} in {self.features}, such as {self._example!r:.60}"
                )
            places += range(self._place[key], self._place[key] + len(key))
        found: Tensor = self.get_buffer("rows")[torch.tensor(places, dtype=torch.int64, device=ids.device)]
        return found

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Reads the features from the file."""
        value.copy_(self._read().features)
        return True

    def _read(self) -> TextFeatures:
        stored = TextFeatures.read(self.features)
        if stored.features.shape[1] != self.width:
            raise TextFeatureError(
                f"StoredText has width {self.width}, and {self.features} features of width {stored.features.shape[1]}"
            )
        return stored
