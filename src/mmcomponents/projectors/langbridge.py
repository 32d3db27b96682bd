"""LangBridge: visual tokens as sums of word embeddings (arXiv 2503.19404).

    x ── fc1 ── GELU ── fc2 ── fc3 ──► coefficients [V] ──► sum of coefficient * embedding of word v, over the V words

Its weights do not depend on the width of the language model: a trained projector is moved to another language model
with the embeddings of the same words there. Code of the authors: `llava/model/multimodal_projector/builder.py`.

Reference code: CurryX-001/LangBridge.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.component import Composition, WiringError
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.nn.autocast import without_autocast
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.nn.recompute import recomputed_input
from mmcomponents.projectors.base import Projector, num_addressed, one_map
from mmcomponents.shared_vocabulary import SharedVocabulary, VocabularyError

_DIGEST_SIZE = 32


class WordProjector(Projector):
    """Visual tokens as sums of the embeddings of words, which a subclass gives.

    The coefficients are not bounded and not normalised, as in the released code. The sum is computed in fp32 at least.
    First coefficients have a variance of 1/V, so that visual tokens begin with the size of a word embedding. A
    state_dict has the digest of the words, and weights of other words, or of another order, are refused.

    Args:
        in_features: Width of the visual tokens.
        out_features: Width of the backbone.
        vocabulary: File of the words, see `mmcomponents.shared_vocabulary`. On the meta device it may be missing.
        num_words: Number of words V, that of the file.
        hidden_features: Width of the hidden layers.

    Attributes:
        tokenizer_fingerprint: Fingerprint of the tokenizer that the file was made for; None without a file.

    Raises:
        VocabularyError: The file is missing, or has another number of words.
    """

    files = ("vocabulary",)

    def __init__(
        self,
        in_features: int | tuple[int, ...],
        out_features: int,
        vocabulary: str,
        num_words: int,
        hidden_features: int,
    ) -> None:
        super().__init__()
        in_features = one_map(self, in_features)
        check_sizes(in_features=in_features, out_features=out_features, hidden_features=hidden_features)
        check_sizes(MAX_ROWS, num_words=num_words)
        self.in_features, self.out_features = in_features, out_features
        self.vocabulary, self.num_words, self.hidden_features = str(vocabulary), num_words, hidden_features
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, hidden_features)
        self.fc3 = nn.Linear(hidden_features, num_words)
        words = self._read(is_optional=self.fc1.weight.is_meta)
        self.tokenizer_fingerprint = None if words is None else words.tokenizer
        self._digest = None if words is None else words.digest
        self.register_buffer("word_digest", self._placed(_as_tensor(self._digest or bytes(_DIGEST_SIZE))))
        self._keep(words)
        self.init_weights()

    def _read(self, is_optional: bool = False) -> SharedVocabulary | None:
        """Returns the file; None if it is optional and does not exist."""
        if is_optional and not Path(self.vocabulary).exists():
            return None
        words = SharedVocabulary.read(self.vocabulary)
        if len(words.words) != self.num_words:
            raise VocabularyError(
                f"{type(self).__name__} has num_words {self.num_words}, and {self.vocabulary} has {len(words.words)}"
            )
        return words

    @abstractmethod
    def _keep(self, words: SharedVocabulary | None) -> None:
        """Keeps what `rows` needs of the file, as buffers that are in no state_dict; of the meta device without it."""

    def _placed(self, value: Tensor) -> Tensor:
        return value.to(self.fc1.weight.device)

    @abstractmethod
    def rows(self, embedding_weight: Tensor | None) -> Tensor:
        """Returns the embeddings of the words.

        Args:
            embedding_weight: `[vocab, out_features]` of the embedder, if `needs_embedding_weight` is set, else None.

        Returns:
            `[V, out_features]`.
        """

    def coefficients(self, x: Tensor) -> Tensor:
        """Computes the coefficients of the words, `[..., in_features]` to `[..., V]`."""
        found: Tensor = self.fc3(recomputed_input(self.fc2, gelu, self.fc1(x)))
        return found

    def forward(self, features: VisualFeatures, embedding_weight: Tensor | None = None) -> Tensor:
        """Projects the primary map, `[N, n, in_features]` to `[N, n, out_features]`."""
        coefficients, rows = self.coefficients(features.primary.tokens), self.rows(embedding_weight)
        with without_autocast(coefficients.device.type):
            wide = torch.promote_types(coefficients.dtype, torch.float32)
            return (coefficients.to(wide) @ rows.to(wide)).to(coefficients.dtype)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the matrices and the sum over the words, over the visual tokens that the pack points to."""
        return 2.0 * num_addressed(batch) * (linear_weights(self) + self.num_words * self.out_features)

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Draws the last map with the variance of `first_variance`."""
        super().init_parameter(name, value, generator)
        if name == "fc3.weight":
            value.mul_(self.first_variance**0.5)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """See `init_parameter`."""
        std = super().init_std(name, shape)
        return std * self.first_variance**0.5 if std is not None and name == "fc3.weight" else std

    @property
    def first_variance(self) -> float:
        """Variance of the first coefficients for inputs of the last map with a variance of 1."""
        return 1 / self.num_words

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Reads a buffer from the file."""
        words = self._read()
        assert words is not None
        value.copy_(_as_tensor(words.digest) if name == "word_digest" else self._buffer_of(words))
        return True

    @abstractmethod
    def _buffer_of(self, words: SharedVocabulary) -> Tensor:
        """Returns the values of the buffer that `_keep` makes."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.get(f"{prefix}word_digest")
        digest = None if given is None or given.is_meta else bytes(given.tolist())
        if digest is not None and self._digest is not None and digest != self._digest:
            raise VocabularyError(
                f"the weights of {type(self).__name__} are for other words, or for another order of them, than"
                f" {self.vocabulary} has: digest {digest.hex()[:12]} and {self._digest.hex()[:12]}"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class LiveLangBridge(WordProjector):
    """LangBridge over the present embedding weight of the model, which a loss on the visual tokens trains too.

    See `WordProjector`.

    Raises:
        VocabularyError: The file is missing, or has another number of words.
    """

    starts_from = ("LangBridge",)
    needs_embedding_weight = True
    ids: Tensor

    def _keep(self, words: SharedVocabulary | None) -> None:
        ids = torch.zeros(self.num_words, dtype=torch.long) if words is None else self._buffer_of(words)
        self.register_buffer("ids", self._placed(ids), persistent=False)

    def _buffer_of(self, words: SharedVocabulary) -> Tensor:
        return words.ids

    def rows(self, embedding_weight: Tensor | None) -> Tensor:
        """Returns the present embeddings of the words, see the base class."""
        assert embedding_weight is not None
        return embedding_weight[self.ids]

    def check(self, model: Composition) -> None:
        """Compares the ids of the words with the vocabulary size.

        Raises:
            WiringError: An id is too large.
        """
        weight = None if model.embedder is None else model.embedder.embedding_weight()
        words = self._read(is_optional=self.fc1.weight.is_meta)
        if weight is not None and words is not None and int(words.ids.max()) >= weight.shape[0]:
            raise WiringError(
                f"{type(self).__name__} has a word with the id {int(words.ids.max())} in {self.vocabulary}, and"
                f" {type(model.embedder).__name__} has {weight.shape[0]} tokens"
            )


class SnapshotProjector(WordProjector):
    """Visual tokens as sums of the embeddings that the file has, which are never trained.

    See `WordProjector`. The embeddings are a buffer, in no state_dict, in the data type of the file; an export copies
    the file.

    Raises:
        VocabularyError: The file is missing, has another number of words, or no embeddings.
        WiringError: The embeddings have another width than the backbone.
    """

    table: Tensor

    def _keep(self, words: SharedVocabulary | None) -> None:
        rows = torch.zeros(self.num_words, self.out_features) if words is None else self._buffer_of(words)
        self.register_buffer("table", self._placed(rows), persistent=False)

    def _buffer_of(self, words: SharedVocabulary) -> Tensor:
        name = type(self).__name__
        if words.rows is None:
            raise VocabularyError(
                f"{name} needs the embeddings of the words, and {self.vocabulary} has none: make it of a folder with"
                " weights"
            )
        if words.rows.shape[1] != self.out_features:
            raise WiringError(
                f"{name} gives tokens of width {self.out_features} and {self.vocabulary} has embeddings of width"
                f" {words.rows.shape[1]}"
            )
        return words.rows

    def rows(self, embedding_weight: Tensor | None) -> Tensor:
        """Returns the stored embeddings of the words, see the base class."""
        return self.table


class LangBridge(SnapshotProjector):
    """LangBridge as released: coefficients without bound over pretrained embeddings; see `SnapshotProjector`."""

    starts_from = ("LiveLangBridge",)


class SoftmaxLangBridge(SnapshotProjector):
    """LangBridge with the softmax of the coefficients: visual tokens are weighted means of word embeddings."""

    def coefficients(self, x: Tensor) -> Tensor:
        """Computes the weights of the words, `[..., in_features]` to `[..., V]`, at least 0 with a sum of 1."""
        found = super().coefficients(x)
        return found.softmax(-1, torch.promote_types(found.dtype, torch.float32)).to(found.dtype)

    @property
    def first_variance(self) -> float:
        """Variance of the first values before the softmax."""
        return 1.0


def _as_tensor(digest: bytes) -> Tensor:
    return torch.tensor(list(digest), dtype=torch.uint8, device="cpu")
