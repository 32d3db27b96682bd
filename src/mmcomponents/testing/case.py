"""A part under test, in a model of small parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.plugins import DoublePrecision
from torch import Tensor, nn

from mmcomponents.batch import LossOutput, ModelState, PackedBatch
from mmcomponents.checkpoints import load
from mmcomponents.component import Component
from mmcomponents.heads import Head
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken, Objective
from mmcomponents.objectives.base import Model
from mmcomponents.testing.composition import Factory, small_model
from mmcomponents.testing.packs import Segment, join, pack
from mmcomponents.testing.report import NotApplicable
from mmcomponents.testing.sample_packs import MakePacks
from mmcomponents.vision.base import repeated

REFERENCE_SEED = 5
"""Seed of the model that an objective gets for its reference or teacher, other than that of the trained model."""


@dataclass(frozen=True)
class NeutralStart:
    """How a part starts that changes nothing in the model until it has been trained.

    Args:
        replaces: Factory of the part that it stands in for; None if the slot would be empty.
        open: Opens the gate of the part, in place: afterwards it must change the outputs of the model.
        factory: Factory of the part in its neutral state. Default: the factory that is checked.
        neighbours: Factories for other slots of the model without the part, where they differ: an encoder that gives
            one map instead of the several that a fuser takes.
    """

    replaces: Factory | None
    open: Callable[[Any], object]
    factory: Factory | None = None
    neighbours: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What the contract tests of one part share.

    Attributes:
        slot: Slot of the part.
        factory: Factory of the part.
        parts: Factories of all slots of the model, the part included.
        packs: Makes packs of one sample each.
        neutral: Neutral start, if the part has one.
    """

    slot: str
    factory: Factory
    parts: dict[str, Any]
    packs: MakePacks
    neutral: NeutralStart | None = None

    def model(self, seed: int = 0) -> MultimodalModel:
        """Builds the model in evaluation mode."""
        return small_model(seed, **self.parts)

    def copied_model(self) -> MultimodalModel:
        """Returns a copy of the model of seed 0, which costs less than to build it again."""
        return copy.deepcopy(self._built)

    @cached_property
    def _built(self) -> MultimodalModel:
        return self.model()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the attributes without the model, for other processes, which build it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def with_part(self, factory: Factory | None) -> dict[str, Any]:
        """Returns the factories of all slots with another part in the slot under test."""
        return self.parts | ({"heads": {"lm": factory}} if self.slot == "head" else {self.slot: factory})

    def part(self, model: MultimodalModel) -> Component:
        """Returns the part under test."""
        return model.parts()[self.part_name]

    @property
    def part_name(self) -> str:
        """Name of the part in `MultimodalModel.parts()`."""
        return "heads.lm" if self.slot == "head" else self.slot

    def objective(self) -> Objective:
        """Returns the objective under test; for other parts next-token prediction, or `OutputNorm` without an LM head.

        References and teachers are models of other weights.
        """
        if self.slot == "objective":
            made = cast(Objective, self.factory())
            made.prepare(self.copied_model(), self._another_model)
            return made
        return NextToken() if self.has_language_head else OutputNorm()

    def _another_model(self, folder: str | Path | None = None) -> MultimodalModel:
        return self.model(REFERENCE_SEED) if folder is None else load(folder, trust_remote_code=True)

    @cached_property
    def has_language_head(self) -> bool:
        """Whether the model has a head `lm` for losses over tokens."""
        heads = self._built.heads
        return "lm" in heads and hasattr(heads["lm"], "weighted_nll")

    @cached_property
    def tile(self) -> tuple[int, int]:
        """Side of a tile in pixels, and number of visual tokens per tile."""
        model = self._built
        return (16, 4) if model.vision is None else (model.vision.image_size, cast(int, model.tokens_per_tile))

    def samples(self, seed: int = 0) -> list[PackedBatch]:
        """Returns packs of one sample each, without images if the model has no vision encoder.

        Raises:
            ValueError: There are fewer than two.
        """
        given = self.packs(seed, tile=self.tile[0], tokens_per_tile=self.tile[1])
        packs = [self._fitted(_numbered(batch, 100 * seed + 10 * n)) for n, batch in enumerate(given)]
        if self.parts["vision"] is None:
            packs = [batch for batch in packs if batch.images is None]
        if len(packs) < 2:
            raise ValueError(f"the contract tests need at least two packs without a vision encoder, got {len(packs)}")
        return packs

    def pack(self, *segments: Segment, targets: Sequence[int] | None = None) -> PackedBatch:
        """Packs segments with tiles for the model; see `mmcomponents.testing.pack`."""
        return self._fitted(pack(*segments, targets=targets, tile=self.tile[0], tokens_per_tile=self.tile[1]))

    def _fitted(self, batch: PackedBatch) -> PackedBatch:
        """Returns a pack whose pixels are replaced by blank tiles if the encoder of the model takes other images."""
        vision = self._built.vision
        if vision is None or batch.images is None or batch.images.pixels is None:
            return batch
        blank = vision.blank("cpu")
        if blank.pixels is not None:
            return batch
        tiles = repeated(blank, batch.images.num_tiles)
        return replace(batch, images=replace(tiles, tile_image=batch.images.tile_image))

    def mixed(self) -> PackedBatch:
        """Returns all samples in one pack."""
        return join(*self.samples())

    def needs_decoding(self) -> None:
        """Raises `NotApplicable` for a model that has no sequence to decode."""
        empty = [slot for slot in ("embedder", "backbone") if self.parts[slot] is None]
        if empty:
            raise NotApplicable(f"the model has no {' and no '.join(empty)}")


def _numbered(batch: PackedBatch, first: int) -> PackedBatch:
    """Returns a pack whose samples have numbers of their own, by which objectives draw, instead of those from 0 on."""
    sample = batch.segment_sample
    return replace(batch, segment_sample=torch.where(sample < 0, -1, sample + first))


class OutputNorm(Objective):
    """Squares of everything that a model returns, plus a linear term: a loss for models of any kind."""

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        """Counts the tokens; in a pack without tokens the tiles."""
        tiles = 0 if batch.images is None else batch.images.num_tiles
        return {"weight": float(batch.num_tokens or tiles)}

    def forward(self, model: Model, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        """See the base class."""
        found = outputs(model, batch).values()
        terms = [(value.square() + value).sum() / (value.shape[-1] if value.ndim > 1 else 1) for value in found]
        total = torch.stack(terms).sum() / max(totals["weight"], 1.0)
        return LossOutput(total, {"loss": total.detach()})


def outputs(model: Model, batch: PackedBatch) -> dict[str, Tensor]:
    """Returns what the heads of a model return, by name and in any shape; without heads, its last state.

    What comes of the blank tile, which a pack without images encodes in training, is returned as zeros: it keeps its
    place in the graph. Without gradient, heads that only read visual features return nothing for such a pack.
    """

    def read(heads: nn.ModuleDict, state: ModelState) -> dict[str, Tensor]:
        if heads:
            found = {}
            for name, head in heads.items():
                needs = set(cast(Head, head).needs)
                is_blank = batch.images is None and bool(needs) and needs <= {"visual", "visual_tokens"}
                if not is_blank or torch.is_grad_enabled():
                    value = head(state, batch)
                    found[f"output of {name}"] = value * 0.0 if is_blank else value
            return found
        for name in ("hidden", "embeds", "visual_tokens"):
            value = getattr(state, name)
            if value is not None:
                return {name: value * 0.0 if name == "visual_tokens" and batch.images is None else value}
        return {}

    found: dict[str, Tensor] = model(batch, read=read)
    return found


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns copies of the tensors of a state_dict, of any shape; extra state may be anything else."""
    return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}


def in_double(batch: PackedBatch) -> PackedBatch:
    """Returns a batch with its floats in double precision, as Lightning casts them."""
    return cast(PackedBatch, DoublePrecision().convert_input(batch))


def loss_and_gradients(
    model: MultimodalModel, objective: Objective, packs: Sequence[PackedBatch]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs one optimizer step's forward and backward passes over several packs with one denominator, as training does.

    Returns:
        The loss, a scalar, and the gradient of each parameter that has one, by name.
    """
    model.zero_grad()
    counts = [objective.counts(pack) for pack in packs]
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    marked = [replace(pack, totals=totals) for pack in packs]
    marked[0].window = marked[1:]
    total = torch.stack([objective(model, pack, totals).total for pack in marked]).sum()
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
