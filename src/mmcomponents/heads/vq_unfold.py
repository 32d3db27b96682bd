"""Head that makes the ids of a fold from one hidden state."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcomponents.batch import Layout, ModelState, PackedBatch, TokenType
from mmcomponents.component import Composition, WiringError
from mmcomponents.heads.base import Head
from mmcomponents.limits import MAX_LAYERS, MAX_ROWS, check_sizes
from mmcomponents.nn.attention.packed import Backend
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.decoder_layer import DecoderLayer, decoder_layers, layers_flops, run_layers
from mmcomponents.nn.linear import linear
from mmcomponents.nn.linear_nll import weighted_linear_nll
from mmcomponents.nn.norm import RMSNorm


class VQUnfold(Head):
    """Causal decoder over the ids of a fold, each given the hidden state and the ids before (SynerGen-VL, 3.1).

    Its sequence has one place for each cell of a `rows x columns` rectangle, row by row. The first place gets the
    hidden state of the position before the fold, each other one the vector of the id before; places have learned
    vectors. All weights are its own. The layers are those of the language model (arXiv 2412.09604, section 3.1).

    Args:
        in_features: Width of the hidden states and of the layers, d.
        vocab_size: Vocabulary size of the text, which the head does not use.
        codebook_size: Number of ids, that of the tokenizer.
        rows: Height of a fold in ids, that of the merger.
        columns: Width of a fold in ids, that of the merger.
        num_layers: Number of layers.
        num_heads: Number of query heads.
        intermediate_size: Inner width of the feed-forward blocks.
        num_kv_heads: Number of key and value heads; None: as many as query heads.
        head_dim: Width of a head; None: in_features / num_heads.
        qkv_bias: Whether q, k and v have biases.
        qk_norm: Whether there is an RMSNorm over each head of queries and keys.
        eps: Epsilon of all norms.
        attention: Attention backend.

    Raises:
        ValueError: A size is out of range, or is not a multiple of another.
    """

    in_features: int
    shard_units = (DecoderLayer,)
    weight_methods: ClassVar[tuple[str, ...]] = ("logits", "weighted_fold_nll", "next_logits")

    def __init__(
        self,
        in_features: int,
        vocab_size: int | None = None,
        codebook_size: int = 32768,
        rows: int = 2,
        columns: int = 8,
        num_layers: int = 4,
        num_heads: int = 16,
        intermediate_size: int = 8192,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        eps: float = 1e-5,
        attention: Backend = "auto",
    ) -> None:
        super().__init__()
        check_sizes(in_features=in_features, rows=rows, columns=columns)
        check_sizes(MAX_ROWS, codebook_size=codebook_size)
        check_sizes(MAX_LAYERS, num_layers=num_layers)
        self.in_features, self.codebook_size, self.rows, self.columns = in_features, codebook_size, rows, columns
        self.embedding = nn.Embedding(codebook_size, in_features)
        self.positions = nn.Parameter(torch.empty(rows * columns, in_features))
        self.layers = decoder_layers(
            num_layers,
            in_features,
            num_heads,
            num_heads if num_kv_heads is None else num_kv_heads,
            head_dim,
            intermediate_size,
            qkv_bias,
            qk_norm,
            eps,
            attention,
        )
        self.norm = RMSNorm(in_features, eps=eps)
        self.weight = nn.Parameter(torch.empty(codebook_size, in_features))
        self.init_weights()

    @property
    def cells(self) -> int:
        """Number of ids of a fold."""
        return self.rows * self.columns

    def check(self, model: Composition) -> None:
        """Checks that tokenizer and merger have the codebook, the fold and the order of the head.

        Raises:
            WiringError: They do not.
        """
        name, vision, merger = type(self).__name__, model.vision, model.merger
        codebook = getattr(vision, "codebook_size", None)
        if codebook is not None and codebook != self.codebook_size:
            raise WiringError(
                f"{type(vision).__name__} has a codebook of {codebook} ids and {name} makes ids of {self.codebook_size}"
            )
        fold = (1, 1) if merger is None else (getattr(merger, "rows", None), getattr(merger, "columns", None))
        if codebook is not None and fold != (self.rows, self.columns):
            other = "no merger folds" if merger is None else f"{type(merger).__name__} folds {fold[0]} x {fold[1]}"
            raise WiringError(f"{other} ids to a token and {name} makes {self.rows} x {self.columns} of one")
        if codebook is not None and getattr(merger, "order", "v2") != "v2":
            raise WiringError(
                f"{type(merger).__name__} has the order {getattr(merger, 'order', None)}, which transposes the grid,"
                f" and {name} makes folds row by row: use Fold"
            )

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Computes the logits of all cells after each position, `[T, cells, codebook]`, if all ids of a fold are 0.

        Training uses `weighted_fold_nll`, sampling `next_logits`, which have the ids.
        """
        assert state.hidden is not None
        zeros = torch.zeros(state.hidden.shape[0], self.cells, dtype=torch.long, device=state.hidden.device)
        return self.logits(state.hidden, zeros)

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Computes the logits of each id given those before it in its fold.

        Args:
            hidden: `[F, d]` hidden states of the positions before the folds.
            ids: `[F, cells]` int64.

        Returns:
            `[F, cells, K]`.
        """
        logits: Tensor = linear(self._states(hidden, ids), self.weight).unflatten(0, (-1, self.cells))
        return logits

    def weighted_fold_nll(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the weighted sum of the negative log-likelihoods of the ids of folds.

        Args:
            hidden: `[F, d]` hidden states of the positions before the folds.
            ids: `[F, cells]`.
            weights: fp32 `[F]`, of each id of a fold.

        Returns:
            The sum, an fp32 scalar, and the likelihood of each fold, the sum over its ids, fp32 `[F]` without gradient.
        """
        states = self._states(hidden, ids)
        each = weights.repeat_interleave(self.cells)
        total, nll = weighted_linear_nll(states, self.weight, ids.flatten(), each)
        return total, nll.unflatten(0, (-1, self.cells)).sum(1)

    def next_logits(self, hidden: Tensor, last: Tensor | None, cell: int, cache: KVCache) -> Tensor:
        """Computes the logits of one cell of each fold, `[F, K]`.

        Args:
            hidden: `[F, d]` hidden states of the positions before the folds.
            last: `[F]` ids of the cell before; None for the first one.
            cell: Number of the cell.
            cache: Keys and values of the cells before, extended by those of this one.
        """
        x = (hidden if last is None else self.embedding(last)) + self.positions[cell]
        layout = _folds(x.shape[0], 1, x.device)
        cache.begin(layout)
        out: Tensor = self.norm(run_layers(self.layers, x, layout, None, cache))
        cache.commit()
        return linear(out, self.weight)

    def planned_loss(self, state: ModelState, batch: PackedBatch) -> Tensor:
        """Returns the loss of a pack whose images are all made, a scalar."""
        assert state.hidden is not None
        hidden = state.hidden[(batch.visual_index >= 0).nonzero()[:, 0]]
        ids = torch.zeros(hidden.shape[0], self.cells, dtype=torch.long, device=batch.visual_index.device)
        return self.weighted_fold_nll(hidden, ids, torch.ones(hidden.shape[0], device=ids.device))[0]

    def flops(self, batch: PackedBatch) -> float:
        """Counts the layers and the map to the codebook over the ids of all pictures that are made."""
        folds = int((batch.layout.token_type == TokenType.IMAGE_GEN).sum())
        boundaries = torch.arange(folds + 1) * self.cells
        return layers_flops(self.layers, boundaries) + 2.0 * folds * self.cells * self.weight.numel()

    def _states(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Returns the states of all cells of folds, `[F * cells, d]`."""
        x = torch.cat((hidden[:, None], self.embedding(ids[:, :-1]).to(hidden.dtype)), dim=1) + self.positions
        layout = _folds(x.shape[0], self.cells, x.device)
        states: Tensor = self.norm(run_layers(self.layers, x.flatten(0, 1), layout, None, None))
        return states


def _folds(count: int, length: int, device: torch.device) -> Layout:
    """Returns the layout of folds as segments of one length."""
    kind = torch.full((count * length,), int(TokenType.IMAGE_GEN), device=device)
    boundaries = torch.arange(count + 1, dtype=torch.int32, device=device) * length
    none = torch.zeros(0, 3, dtype=torch.long, device=device)
    return Layout(kind, boundaries, length, torch.full_like(kind, -1), none)
