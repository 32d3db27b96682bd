"""An embedder with decoder layers of its own gets what the backbone gets: positions, and a view of the cache."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import PackedBatch
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation.inputs import set_delta
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing import Ranks, check_component, small_model, small_parts
from mmcomponents.training.slots import param_groups


class Deep(TokenEmbedder):
    """Token embeddings, contracted visual tokens, and two decoder layers."""

    visual_features = 24

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.contract = torch.nn.Linear(self.visual_features, hidden_size)
        self.layers = DecoderLM(hidden_size, 2, 4, 48, num_kv_heads=2)
        self._position: tuple[Any, ...] = ()
        self.init_weights()

    def bind(self, position: Any) -> None:
        if position is None:
            raise WiringError("Deep needs a position part and the slot is empty")
        self._position = (position,)

    def forward(self, batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime | None = None) -> Tensor:
        x = super().forward(batch, None if visual_tokens is None else self.contract(visual_tokens), runtime)
        cache = None if runtime is None or runtime.cache is None else self.own(runtime.cache)
        return self.layers(x, batch.layout, self._position[0].rotary(batch.layout), cache)

    def own(self, cache: Any) -> Any:
        return cache.view("embedder.")


class Colliding(Deep):
    """Break: it extends the layers of the backbone."""

    def own(self, cache: Any) -> Any:
        return cache


def test_every_contract_holds(two_ranks: Ranks) -> None:
    check_component("embedder", Deep, neighbours={"position": V2PE}, ranks=two_ranks)


def test_layers_with_the_names_of_the_backbones_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"two layers extend 'decoder\.0' of the cache"):
        check_component("embedder", Colliding, neighbours={"position": V2PE},
                        only=["decode_equals_forward"])  # fmt: skip


def test_both_stacks_have_the_positions_of_the_model() -> None:
    model = small_model(embedder=Deep, position=V2PE)
    batch = tiny.pack([("t", 4), ("i", 1), ("t", 3)])
    names = {name.partition(".")[0] for name, _ in model.embedder.named_parameters()}
    assert names == {"embedding", "contract", "layers"}
    with torch.no_grad():
        before = model.embedder(batch, torch.ones(tiny.VISUAL_TOKENS, 24))
        set_delta(model, 1 / 16)
        after = model.embedder(batch, torch.ones(tiny.VISUAL_TOKENS, 24))
        other = copy.deepcopy(model)
        set_delta(model, 1.0)
        copied = other.embedder(batch, torch.ones(tiny.VISUAL_TOKENS, 24))
    assert (before - after).abs().max() > 1e-3
    assert torch.equal(copied, after)  # a copy has the position part of the copied model
    assert sum(len(group["params"]) for group in param_groups(model, {})) == len(list(model.parameters()))


def test_visual_tokens_have_the_width_that_the_embedder_takes() -> None:
    parts: Any = small_parts(position=V2PE, embedder=Deep)
    model = Factories(**parts).build(tiny.VOCAB, None)
    assert model.projector.out_features == 24
    with pytest.raises(WiringError, match="MLPProjector gives tokens of width 32 and Deep takes 24"):
        small_model(embedder=Deep, position=V2PE, projector=lambda width, out: MLPProjector(width, 32))
    with pytest.raises(WiringError, match="Deep needs a position part and the slot is empty"):
        small_model(embedder=Deep, position=None)
