"""Distillation of the embeddings of a compositional model, the first stage of HoVLE."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mmcomponents.batch import LossOutput, ModelState, PackedBatch
from mmcomponents.component import Component, Composition, WiringError
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives.base import Build, Model, Objective
from mmcomponents.objectives.frozen_model import FrozenModel

_WHERE_KNOWN = ("rows and columns of a visual token in patches", "order of the patches of a visual token")
"""What is compared if both models have it."""


class Distillation(Objective):
    """Negative cosine similarity to the embeddings of a frozen model (HoVLE, arXiv 2412.16158, first stage).

    The loss is `-cos(x_I, z_I) - cos(x_T, z_T)`: the mean over all image tokens of a step plus the mean over all text
    tokens. x is the input of the backbone, which is not run; z is that of the teacher: the visual tokens of its encoder
    and projector, and its embedding weight. Images and texts may be of the same samples or of different ones.

    Tokens of segments that are no samples do not count.

    Args:
        teacher: Folder of the teacher, a model with the same tokens and tiles. Training needs one.
    """

    needs = ("embeds",)
    denominator = "tokens"
    validated = MappingProxyType({"image": "image_tokens", "text": "text_tokens"})
    loss_weights = MappingProxyType({"image": 1.0, "text": 1.0})

    def __init__(self, teacher: str | None = None) -> None:
        super().__init__()
        self.folders = () if teacher is None else (teacher,)
        self._teacher = FrozenModel("the teacher of Distillation", teacher)

    def check(self, model: Composition) -> None:
        """Checks that the model has embeddings.

        Raises:
            WiringError: It has none.
        """
        if model.embedder is None:
            raise WiringError(f"{type(self).__name__} trains embeddings and the embedder slot is empty")

    def check_other(self, model: Composition, other: Composition) -> None:
        """Compares tiles, tokens, widths and vocabulary with those of the teacher.

        Raises:
            WiringError: They differ.
        """
        layers = getattr(other.embedder, "num_layers", 0)
        if layers:
            name = type(other.embedder).__name__
            raise WiringError(
                f"{name} of the teacher {self.folders[0]} has {layers} layers: the embeddings of a teacher are those of"
                " its tokens, without layers"
            )
        ours, theirs = _sizes(model), _sizes(other)
        for what, (part, size) in ours.items():
            name, given = theirs[what]
            if size != given and (what not in _WHERE_KNOWN or None not in (size, given)):
                raise WiringError(f"{what}: {part} has {size}, and {name} of the teacher {self.folders[0]} has {given}")

    def prepare(self, model: Model, build: Build) -> None:
        """Builds the teacher.

        Raises:
            WiringError: There is none.
        """
        if not self.folders:
            raise WiringError(
                "Distillation needs the folder of its teacher: set model.objective.init_args.teacher to a compositional"
                " model with the same tokens"
            )
        self._teacher.prepare(build)

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the image tokens and the text tokens of samples."""
        image, text = (float(mask.sum()) for mask in _masks(batch))
        return {"tokens": image + text, "image_tokens": image, "text_tokens": text}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """Computes the share of the pack in the loss of the step; zero without samples."""
        ours = self._embeddings(model, batch)
        with torch.no_grad():
            theirs = self._embeddings(self._teacher.beside(model), batch)
        dtype = torch.promote_types(ours.dtype, torch.float32)
        losses = -cosine_similarity(ours.to(dtype), theirs.to(dtype), dim=-1)
        image, text = (torch.where(mask, losses, 0.0).sum() for mask in _masks(batch))
        image, text = image / max(totals["image_tokens"], 1.0), text / max(totals["text_tokens"], 1.0)
        total = image + text
        parts = {"loss": total, "image": image, "text": text}
        return LossOutput(total, {name: value.detach() for name, value in parts.items()})

    def _embeddings(self, model: Model, batch: PackedBatch) -> Tensor:
        """Returns the input of the backbone, `[T, d]`."""

        def read(heads: nn.ModuleDict, state: ModelState) -> Tensor:
            assert state.embeds is not None
            return state.embeds

        found: Tensor = model(batch, Runtime(needs=self.needs), read)
        return found


def _masks(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Returns which positions of samples are image tokens, and which are not, `[T]` each."""
    of_samples = (batch.segment_sample >= 0)[batch.layout.segment_of_token()]
    image = batch.visual_index >= 0
    return of_samples & image, of_samples & ~image


def _sizes(model: Composition) -> dict[str, tuple[str, object]]:
    """Returns what has to be equal in both models, with the part that it is a size of."""
    vision, embedder = model.vision, model.embedder
    weight = None if embedder is None else embedder.embedding_weight()
    table, encoder, visual = (type(part).__name__ for part in (embedder, vision, model.merger or vision))
    return {
        "side of a tile in pixels": (encoder, getattr(vision, "image_size", None)),
        "visual tokens per tile": (visual, model.tokens_per_tile),
        _WHERE_KNOWN[0]: (visual, _block(model.merger)),
        _WHERE_KNOWN[1]: (visual, getattr(model.merger, "order", None)),
        "width": (table, getattr(embedder, "hidden_size", None)),
        "vocabulary size": (table, None if weight is None else weight.shape[0]),
    }


def _block(merger: Component | None) -> tuple[int, int] | None:
    rows, columns = getattr(merger, "rows", None), getattr(merger, "columns", None)
    return None if rows is None or columns is None else (rows, columns)
