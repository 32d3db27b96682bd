from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.batch import PackedBatch
from mmcomponents.component import Component
from mmcomponents.model import MultimodalModel
from mmcomponents.projectors import Projector
from mmcomponents.testing import small_model
from mmcomponents.training import SlotOptions
from mmcomponents.training.adapters import inject_adapters
from mmcomponents.training.flops import work
from mmcomponents.training.memory.step_trace import StepTrace, trace_forward, trace_step
from mmcomponents.training.memory.synthetic_pack import on_meta, pack_loss, synthetic_pack
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units

LLAMA = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_LLAMA = {**LLAMA, "intermediate_size": 48, "vocab_size": 64, "num_key_value_heads": 2, "head_dim": 8}


def loss_of(model: MultimodalModel, batch: PackedBatch) -> Callable[[], Tensor]:
    return lambda: pack_loss(model, on_meta(batch), by_position=False)


def traced(setting: Checkpointing = "none", frozen: str = "", **parts: object) -> StepTrace:
    model = tiny.model(**parts).to("meta").train()
    if frozen:
        getattr(model, frozen).requires_grad_(False)
    prepare_units(model, {}, setting)
    return trace_step(model, loss_of(model, synthetic_pack(model, 64, None)), lambda _: 0)


def saved_on_cpu(part: nn.Module, call: Callable[[], object]) -> int:
    """Returns the bytes that a real forward pass saves, weights left out; each storage once."""
    known = {p.untyped_storage()._cdata for p in part.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage
        return value

    with saved_tensors_hooks(pack, lambda value: value):
        out = call()
    assert out is not None
    return sum(storage.nbytes() for storage in found.values())


def test_kept_bytes_are_those_that_a_real_forward_pass_saves() -> None:
    model = small_model(
        vision=tiny.vision_factory(num_layers=4), backbone=tiny.backbone_factory(num_layers=4)
    ).train()  # fmt: skip
    batch = synthetic_pack(model, 256, None)
    meta = small_model(
        vision=tiny.vision_factory(num_layers=4), backbone=tiny.backbone_factory(num_layers=4)
    ).to("meta").train()  # fmt: skip
    kept = trace_step(meta, loss_of(meta, batch), lambda _: 0).kept
    assert kept["vision"] == pytest.approx(saved_on_cpu(model.vision, lambda: model.vision(batch.images)), rel=0.01)
    x = torch.randn(256, tiny.WIDTH, requires_grad=True)
    rotary = model.position.rotary(batch.layout)
    real = saved_on_cpu(model.backbone, lambda: model.backbone(x, batch.layout, rotary))
    tables = sum(t.untyped_storage().nbytes() for t in rotary)
    assert kept["backbone"] == pytest.approx(real - x.nbytes - tables, rel=0.01)  # which other slots have made


def test_a_checkpoint_keeps_its_inputs_only() -> None:
    none, selective, full = (traced(setting).kept["backbone"] for setting in ("none", "selective", "full"))
    assert none > selective > full
    rows = 64 * tiny.WIDTH * 4
    # The input of each of two layers is kept by the embedder and the first layer; the norm keeps its input and result.
    assert full < 5 * rows


def test_a_checkpoint_keeps_nothing_of_an_adapter() -> None:
    """The dropout of an adapter of `down_proj` saves a mask of the inner width."""
    options = {"backbone": SlotOptions(adapter=LoraConfig(r=2, lora_dropout=0.5, target_modules=["down_proj"]))}
    model = tiny.model(vision=None, merger=None, projector=None)
    inject_adapters(model, options)
    model.to("meta").train()
    loss = loss_of(model, synthetic_pack(model, 64, None))
    before = trace_step(model, loss, lambda _: 0).kept["backbone"]
    prepare_units(model, options, "full")
    kept = trace_step(model, loss, lambda _: 0).kept["backbone"]
    assert kept < 5 * 64 * tiny.WIDTH * 4 < before


def test_flops_are_those_that_the_parts_declare() -> None:
    model = tiny.model().to("meta")
    batch = synthetic_pack(model, 64, None)
    declared = {name.rpartition("/")[2]: count for name, count in work(model, batch).items() if "flops" in name}
    declared["head"] = declared.pop("heads.lm")
    found = trace_forward(model, loss_of(model, batch))
    assert {slot: found.get(slot, 0) for slot in declared} == declared
    step = traced().flops
    assert step["projector"] == 3 * found["projector"]
    assert step["backbone"] == 3 * found["backbone"]
    wide = (
        2
        * 64
        * sum(m.weight.numel() for n, m in model.backbone.named_modules() if n.endswith(("gate_proj", "up_proj")))
    )
    assert traced("selective").flops["backbone"] == step["backbone"] + wide
    assert traced("full").flops["backbone"] > step["backbone"] + wide
    # Frozen: only what passes through it. The products of attention have two inputs that need a gradient.
    assert 2 * found["backbone"] < traced(frozen="backbone").flops["backbone"] < 3 * found["backbone"]
    assert traced(frozen="vision").flops["vision"] == found["vision"]
    assert "vision" not in traced(frozen="vision").kept


class Undeclared(Projector):
    """Says nothing of its FLOPs."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.map = nn.Linear(in_features, out_features)

    def forward(self, features, embedding_weight=None) -> Tensor:
        out: Tensor = self.map(features.primary.tokens)
        return out


def test_a_part_that_declares_nothing_is_counted() -> None:
    model = tiny.model(projector=Undeclared(4 * tiny.VISION, tiny.WIDTH)).to("meta")
    assert isinstance(model.projector, Component)
    batch = synthetic_pack(model, 64, None)
    assert model.projector.flops(batch) == 0
    assert trace_forward(model, loss_of(model, batch))["projector"] == 2 * 48 * 4 * tiny.VISION * tiny.WIDTH


@pytest.mark.parametrize("setting", ["none", "selective", "full"])
def test_a_model_of_transformers_keeps_no_scores(setting: Checkpointing) -> None:
    """Its mask is a square; attention is counted as causal, and its scores, 4 heads of 64 x 64, are not kept."""
    with torch.device("meta"):
        model = tiny.model(backbone=TransformersLM(SMALL_LLAMA))
    batch = synthetic_pack(model, 64, None)
    assert trace_forward(model, loss_of(model, batch))["backbone"] == model.backbone.flops(batch)
    found = traced(setting, backbone=TransformersLM(SMALL_LLAMA))
    assert found.kept["backbone"] < 300_000
    assert found.flops["backbone"] >= 3 * model.backbone.flops(batch)


def test_gradients_that_are_there_already_count() -> None:
    model = tiny.model().to("meta").train()
    loss = loss_of(model, synthetic_pack(model, 64, None))
    trace_forward(model, loss)  # makes the frequencies of the position part, once per process
    without = trace_step(model, loss, lambda _: 0)
    held = trace_step(model, loss, lambda p: 4 * p.numel())
    assert held.forward == without.forward
    assert held.backward > without.backward
