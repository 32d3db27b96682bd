"""Modes of slots."""

from __future__ import annotations

from functools import partial

import peft

import tiny
from contracts.pair import make_task
from mmcomponents.training import SlotOptions

ADAPTER = peft.LoraConfig(target_modules=["qkv"], lora_dropout=0.5)


def test_every_layer_of_a_frozen_slot_is_in_evaluation_mode() -> None:
    made = make_task(
        vision=partial(tiny.vision, drop_path=0.5),
        slots={"vision": SlotOptions(trainable=False), "heads": SlotOptions(trainable=False)},
    )
    made.configure_model()
    made.train()
    modes = {name: {m.training for m in part.modules()} for name, part in made.model.parts().items()}
    assert {name for name, found in modes.items() if found == {False}} == {"vision", "heads.lm"}
    assert all(found == {True} for name, found in modes.items() if name not in ("vision", "heads.lm"))


def test_of_a_frozen_slot_with_an_adapter_only_the_adapter_is_in_training_mode() -> None:
    made = make_task(
        vision=partial(tiny.vision, drop_path=0.5), slots={"vision": SlotOptions(trainable=False, adapter=ADAPTER)}
    )
    made.configure_model()
    made.train()
    on = {name for name, module in made.model.vision.named_modules() if module.training}
    assert {name.split(".qkv")[0] for name in on} == {"blocks.0.attn", "blocks.1.attn"}
    assert not any("base_layer" in name for name in on)
    assert "blocks.0.attn.qkv.lora_dropout.default" in on
