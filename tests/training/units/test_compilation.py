"""Compilation takes 10 to 20 seconds the first time on a machine; later runs find its code in a cache."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from peft import LoraConfig
from torch import Tensor
from torch._dynamo.utils import counters

import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.batch import PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import NextToken
from mmcomponents.testing import small_model, small_parts
from mmcomponents.testing.case import loss_and_gradients
from mmcomponents.testing.report import Findings
from mmcomponents.testing.training_steps import run_steps
from mmcomponents.training import MultimodalTask, SlotOptions
from mmcomponents.training.adapters import inject_adapters, start_adapters
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.compilation import Compiled
from mmcomponents.training.units.prepare import prepare_units, units_of

LORA = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def packs(count: int) -> list[PackedBatch]:
    """Returns packs of different lengths, numbers of segments and tiles."""
    made = []
    for n in range(count):
        segments = [("t", 3 + n), ("i", 1 + n % 3), ("t", 2)]
        made.append(tiny.pack(segments, *[[("t", 4 + n)] for _ in range(n % 4)]))
    return made


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    compared = Findings()
    compared.tensors("compiled", found, expected, allowed=1e-5)
    assert not compared.failures


def gradients(model: MultimodalModel, batch: PackedBatch) -> dict[str, Tensor]:
    loss, found = loss_and_gradients(model, NextToken(), [batch])
    return {"loss": loss, **found}


@pytest.mark.parametrize("setting", ["selective", *(pytest.param(s, marks=pytest.mark.slow) for s in ("none", "full"))])
def test_nothing_changes_and_packs_of_all_lengths_run_the_same_code(setting: Checkpointing) -> None:
    """All units of a type share the code: 4 layers, 3 blocks of unequal drop path rates, which is off in evaluation."""
    torch._dynamo.reset()
    model = small_model(
        scale=1.0,
        vision=tiny.vision_factory(num_layers=3, drop_path=0.2),
        backbone=tiny.backbone_factory(num_layers=4),
    )
    compiled = copy.deepcopy(model)
    prepare_units(compiled, {}, setting, compiles=True)
    counters.clear()
    for n, batch in enumerate(packs(50)):
        found = gradients(compiled, batch)
        if n % 7 == 0:
            assert_close(found, gradients(model, batch))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 2 * 3


def test_drop_path_rates_share_the_code() -> None:
    torch._dynamo.reset()
    model = tiny.model(vision=tiny.vision(num_layers=6, drop_path=0.5), backbone=tiny.backbone(num_layers=1)).train()
    prepare_units(model, {"vision": SlotOptions(compile=True)})
    counters.clear()
    for batch in packs(3):
        assert all(grad.isfinite().all() for grad in gradients(model, batch).values())
    assert not counters["graph_break"]
    # With and without drop path, and for one and for several tiles.
    assert counters["stats"]["unique_graphs"] <= 4


@pytest.mark.parametrize("setting", ["full", pytest.param("none", marks=pytest.mark.slow)])
def test_with_adapters(setting: Checkpointing) -> None:
    model = tiny.model()
    options = {"backbone": SlotOptions(adapter=LORA)}
    inject_adapters(model, options)
    start_adapters(model, 0)
    model.eval()
    batch = packs(3)[-1]
    expected = gradients(model, batch)
    prepare_units(model, options, setting, compiles=True)
    assert_close(gradients(model, batch), expected)


def test_layers_of_transformers() -> None:
    model = tiny.model(backbone=TransformersLM(LLAMA))
    batch = packs(3)[-1]
    expected = gradients(model, batch)
    prepare_units(model, {}, compiles=True)
    assert all(isinstance(unit, Compiled) for unit in units_of(model.backbone))
    assert_close(gradients(model, batch), expected)


def test_without_gradients_units_run_as_they_are_written() -> None:
    model = tiny.model()
    batch = packs(1)[0]
    expected = tiny.logits(model, batch)
    prepare_units(model, {}, compiles=True)
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        assert torch.equal(tiny.logits(model, batch), expected)
    assert not counters["stats"]["unique_graphs"]
    prepare_units(model, {})
    assert not any(isinstance(module, Compiled) for module in model.modules())


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    slots = {"backbone": SlotOptions(compile=True)}
    parts: dict[str, Any] = small_parts() | {"vocab_size": tiny.VOCAB, "image_token_id": tiny.IMAGE_TOKEN}
    trained, evaluated = (MultimodalTask(**parts, slots=slots) for _ in range(2))
    trained.check()  # a recipe for GPUs can be planned on any machine
    with pytest.raises(MisconfigurationException, match=r"^compile: no C\+\+ compiler works here"):
        run_steps(trained, packs(1), 1)
    assert trained.model is None
    evaluated.configure_model()  # only training compiles
    assert evaluated.model is not None


def test_a_slot_without_units_is_refused() -> None:
    parts: dict[str, Any] = small_parts()
    slots = {"merger": SlotOptions(compile=True)}
    task = MultimodalTask(**parts, vocab_size=tiny.VOCAB, image_token_id=tiny.IMAGE_TOKEN, slots=slots)
    with pytest.raises(ValueError, match=r"slots.merger.compile: PixelUnshuffle declares no units \(shard_units\)"):
        task.check()
