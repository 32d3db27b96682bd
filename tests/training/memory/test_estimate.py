from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

import tiny
from mmcomponents.backbones import DecoderLM
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import AdaptersOff, FrozenReference, NextToken, StoredReference
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.training.adapters import inject_adapters
from mmcomponents.training.memory.device_memory import Run
from mmcomponents.training.memory.estimate import Estimator, Plan, make_plan
from mmcomponents.training.memory.optimizer_state import state_bytes
from mmcomponents.training.memory.synthetic_pack import synthetic_pack
from mmcomponents.training.quantization import quantize_slots
from mmcomponents.training.slots import SlotOptions, freeze
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units
from mmcomponents.vision import InternViT


def plan(model: MultimodalModel, reference: Any = None) -> Plan:
    estimator = Estimator(model, Run(), synthetic_pack(model, 64, None), reference)
    return make_plan(estimator, dict.fromkeys(estimator.slots, "none"))


def test_heads_are_one_slot_and_a_shared_weight_counts_once() -> None:
    heads = {"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True), "other": LMHead(tiny.WIDTH, tiny.VOCAB)}
    model = tiny.model(heads=heads)
    found = plan(model)
    assert found.parts["head"] == "LMHead, LMHead"
    assert found.parameters["head"] == tiny.VOCAB * tiny.WIDTH
    assert found.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert found.flops["head"] == 2 * 2 * found.pack["targets"] * tiny.VOCAB * tiny.WIDTH
    assert found.pack["tiles"] == 12  # three quarters of 64 tokens at 4 per tile


def test_a_reference_costs_a_forward_pass_where_one_is_run_and_memory_where_a_model_is_held() -> None:
    model = tiny.model()
    seen = {}
    plain = plan(model, StoredReference())
    for reference in (StoredReference(), AdaptersOff(), FrozenReference()):
        found = plan(model, reference)
        more = {slot: found.training_flops[slot] - plain.training_flops[slot] for slot in plain.flops}
        assert more == plain.flops or not any(more.values())
        seen[type(reference)] = more == plain.flops, 2 * found.memory.reference == found.memory.weights  # bf16
    assert seen == {StoredReference: (False, False), AdaptersOff: (True, False), FrozenReference: (True, True)}


def test_a_preference_loss_computes_its_logits_again() -> None:
    model = tiny.model()
    assert plan(model, StoredReference()).training_flops["head"] == 4 * plan(model).flops["head"]
    assert plan(model).training_flops["head"] == 3 * plan(model).flops["head"]


class NeedsData(LMHead):
    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        assert float(hidden.sum()) == 0.0
        return super().weighted_nll(hidden, labels, row_weights)


def test_a_part_that_needs_data_is_named_and_what_it_declares_is_counted() -> None:
    found = plan(tiny.model(heads={"lm": NeedsData(tiny.WIDTH, tiny.VOCAB)}))
    why = "RuntimeError: Tensor.item() cannot be called on meta tensors"
    assert found.problem == f"the model does not run without data ({why})"
    assert found.activations == {}
    assert found.training_flops["backbone"] == 3 * found.flops["backbone"] > 0
    assert found.memory.activations == 0


def test_without_a_trained_weight_there_is_no_backward_pass() -> None:
    model = tiny.model()
    model.requires_grad_(False)
    assert plan(model).problem == "every slot is frozen, so that there is no backward pass"


def test_a_unit_that_is_not_in_the_part_is_refused() -> None:
    backbone = tiny.backbone()
    backbone.shard_units = (torch.nn.LSTM,)
    with pytest.raises(WiringError, match="DecoderLM declares the unit LSTM"):
        plan(tiny.model(backbone=backbone))


def test_other_numbers_of_devices_have_their_own_pieces() -> None:
    model = tiny.model().to("meta")
    pack = synthetic_pack(model, 64, None)
    one, many = Run(1), Run(16)
    settings: dict[str, Checkpointing] = {"vision": "full", "backbone": "full"}
    assert Estimator(model, one, pack).memory(settings, many) == Estimator(model, many, pack).memory(settings)


def composed(layers: int, width: int, vocabulary: int) -> MultimodalModel:
    factories = Factories(
        vision=partial(InternViT, width // 2, layers, width // 128, 2 * width, image_size=224),
        merger=PixelUnshuffle,
        projector=MLPProjector,
        embedder=TokenEmbedder,
        position=V2PE,
        backbone=partial(DecoderLM, width, layers, width // 64, 3 * width, num_kv_heads=width // 128),
        heads={"lm": LMHead},
    )
    return factories.build(vocabulary, None)


def with_options(model: MultimodalModel, slots: Mapping[str, SlotOptions]) -> MultimodalModel:
    inject_adapters(model, slots)
    freeze(model, dict(slots))
    quantize_slots(model, slots)
    return model


def predicted_and_measured(
    setting: Checkpointing, tokens: int, *sizes: int, slots: Mapping[str, SlotOptions] = MappingProxyType({})
) -> tuple[int, int]:
    """Returns the peak of a step as planned, and as torch's profiler sees it on the CPU.

    The profiler does not see that a tensor from before it began is freed, so that a step runs without gradients of an
    earlier one, and another one with them.
    """
    optimizer = partial(torch.optim.AdamW, lr=1e-4)
    run = Run(sharded=False, compute=torch.float32, fused_step=False, state_bytes=state_bytes(optimizer, torch.float32))
    with torch.device("meta"):
        meta = with_options(composed(*sizes), slots)
    pack = synthetic_pack(meta, tokens, None)
    estimator = Estimator(meta, run, pack)
    predicted = estimator.memory(dict.fromkeys(estimator.slots, setting)).total
    model, objective = with_options(composed(*sizes), slots).train(), NextToken()
    prepare_units(model, {}, setting)
    own = [p for p in model.parameters() if p.requires_grad]
    trained = optimizer(own)

    def step() -> None:
        loss = objective(model, pack, objective.counts(pack)).total
        trained.zero_grad()  # where Lightning does it
        loss.backward()
        trained.step()

    step()
    trained.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
        step()
    changes: list[tuple[int, int]] = []

    def collect(event: Any) -> None:
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.alloc_size))
        for child in event.children:
            collect(child)

    for event in profiler.profiler.kineto_results.experimental_event_tree():
        collect(event)
    now = peak = 0
    for _, size in sorted(changes):
        now += size
        peak = max(peak, now)
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    return predicted, peak + weights + 2 * sum(p.nbytes for p in own)  # with two moments of AdamW


@pytest.mark.parametrize("setting", ["none", "full"])
def test_the_peak_with_quantised_weights_is_that_of_a_real_step(setting: Checkpointing) -> None:
    lora = LoraConfig(r=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"])
    frozen = {name: SlotOptions(trainable=False) for name in ("projector", "embedder", "heads")}
    slots = {
        **frozen,
        "vision": SlotOptions(trainable=False, quantization="nf4"),
        "backbone": SlotOptions(adapter=lora, quantization="nf4"),
    }
    predicted, measured = predicted_and_measured(setting, 512, 3, 256, 2000, slots=slots)
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("setting", ["none", "selective", "full"])
def test_the_peak_of_a_step_is_that_of_a_real_one(setting: Checkpointing) -> None:
    predicted, measured = predicted_and_measured(setting, 512, 3, 256, 2000)
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["none", "selective", "full"])
def test_the_peak_of_100_million_parameters(setting: Checkpointing) -> None:
    predicted, measured = predicted_and_measured(setting, 2048, 9, 768, 32000)
    assert predicted == pytest.approx(measured, rel=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("setting", ["none", "selective", "full"])
def test_the_peak_on_a_gpu(setting: Checkpointing) -> None:
    optimizer = partial(torch.optim.AdamW, lr=1e-4)
    sizes = (9, 768, 32000)
    with torch.device("meta"):
        meta = composed(*sizes)
    pack = synthetic_pack(meta, 8192, None)
    run = Run(sharded=False, weights=torch.bfloat16, state_bytes=state_bytes(optimizer, torch.bfloat16))
    estimator = Estimator(meta, run, pack)
    predicted = estimator.memory(dict.fromkeys(estimator.slots, setting)).total
    model, objective = composed(*sizes).to("cuda", torch.bfloat16).train(), NextToken()
    prepare_units(model, {}, setting)
    trained, there = optimizer(model.parameters()), pack.to("cuda")
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        loss = objective(model, there, objective.counts(pack)).total
        trained.zero_grad()
        loss.backward()
        trained.step()
    images = there.images
    batch = 0 if images is None or images.pixels is None else images.pixels.nbytes
    assert predicted + batch == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
