from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tiny
from mmcomponents.backbones import TransformersLM
from mmcomponents.component import WiringError
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.attention import Segments
from mmcomponents.objectives import NextToken
from mmcomponents.testing import small_parts, text_packs
from mmcomponents.testing.case import loss_and_gradients
from mmcomponents.training import MultimodalTask, SlotOptions
from mmcomponents.training.adapters import inject_adapters, start_adapters
from mmcomponents.training.slots import freeze, set_modes
from mmcomponents.training.units.checkpointing import Checkpointed, Checkpointing, checkpoint_unit
from mmcomponents.training.units.prepare import prepare_units, units_of

LORA = SlotOptions(adapter=LoraConfig(r=2, lora_dropout=0.3, target_modules=["q_proj", "down_proj"]))
SLOTS: dict[str, dict[str, SlotOptions]] = {
    "all trained": {},
    "vision frozen": {"vision": SlotOptions(trainable=False)},
    "backbone frozen": {"backbone": SlotOptions(trainable=False)},
    "adapters": {"backbone": LORA},
}


def gradients(model: MultimodalModel) -> dict[str, Tensor]:
    torch.manual_seed(0)
    loss, found = loss_and_gradients(model, NextToken(), text_packs(0, tile=tiny.TILE, tokens_per_tile=4))
    return {"loss": loss, **found}


@pytest.mark.parametrize("setting", ["selective", "full"])
@pytest.mark.parametrize("options", SLOTS.values(), ids=SLOTS)
def test_nothing_changes(options: dict[str, SlotOptions], setting: Checkpointing) -> None:
    """Drop path and the dropout of adapters draw the same numbers in both computations."""
    model = tiny.model(vision=tiny.vision(drop_path=0.5))
    inject_adapters(model, options)
    start_adapters(model, 0)
    freeze(model, options)
    set_modes(model.train(), options, True)
    expected = gradients(model)
    prepare_units(model, options, setting)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def unit_and_flops(setting: Checkpointing) -> tuple[nn.Module, float]:
    torch.manual_seed(0)
    unit = units_of(tiny.backbone())[0]
    checkpoint_unit(unit, setting)
    return unit, step_flops(unit)


def step_flops(unit: nn.Module) -> float:
    x = torch.randn(8, tiny.WIDTH, requires_grad=True)
    segments = Segments(torch.tensor([0, 8], dtype=torch.int32), 8)
    with FlopCounterMode(display=False) as counter:
        unit(x, None, segments, None, None, "0").sum().backward()
    return float(counter.get_total_flops())


def test_what_is_computed_again() -> None:
    """Selective: only the maps to a greater width, gate and up. Full: all but the last map, which nothing needs."""
    unit, once = unit_and_flops("none")
    wide = 2 * 8 * (unit.mlp.gate_proj.weight.numel() + unit.mlp.up_proj.weight.numel())
    assert unit_and_flops("selective")[1] - once == wide
    matrices = sum(2 * 8 * m.weight.numel() for m in unit.modules() if isinstance(m, nn.Linear))
    last = 2 * 8 * unit.mlp.down_proj.weight.numel()
    assert unit_and_flops("full")[1] - once == matrices - last  # torch counts no attention on the CPU


def test_names_and_types_stay_and_copies_are_checkpointed() -> None:
    backbone = tiny.backbone()
    names = list(backbone.state_dict())
    unit = units_of(backbone)[0]
    own = type(unit)
    checkpoint_unit(unit, "full")
    assert isinstance(unit, own)
    assert list(backbone.state_dict()) == names
    assert isinstance(copy.deepcopy(backbone).layers[0], Checkpointed)
    checkpoint_unit(unit, "selective")
    checkpoint_unit(unit, "none")
    assert type(unit) is own


def checkpointed(model: MultimodalModel) -> set[str]:
    parts = model.parts().items()
    return {slot for slot, part in parts if any(isinstance(module, Checkpointed) for module in part.modules())}


def test_a_slot_overrides_the_strategy() -> None:
    model = tiny.model()
    prepare_units(model, {"vision": SlotOptions(activation_checkpointing="none")}, "full")
    assert checkpointed(model) == {"backbone"}
    prepare_units(model, {"vision": SlotOptions(activation_checkpointing="selective")}, "none")
    assert checkpointed(model) == {"vision"}


def test_the_layers_of_transformers_are_units() -> None:
    config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    lm = TransformersLM({**config, "intermediate_size": 24, "vocab_size": 32, "num_key_value_heads": 2})
    assert [type(unit).__name__ for unit in units_of(lm)] == ["LlamaDecoderLayer"] * 2


def task(**slots: SlotOptions) -> MultimodalTask:
    return MultimodalTask(**small_parts(), vocab_size=tiny.VOCAB, image_token_id=tiny.IMAGE_TOKEN, slots=slots)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"projector": "full"}, "slots.projector.activation_checkpointing: MLPProjector declares no units"),
        ({"heads": "full"}, "slots.heads.lm.activation_checkpointing: LMHead declares no units"),
        ({"fuser": "full"}, "slots.fuser: the model has no such slot"),
    ],
)
def test_a_slot_without_units_is_refused(slots: dict[str, Checkpointing], message: str) -> None:
    made = {name: SlotOptions(activation_checkpointing=setting) for name, setting in slots.items()}
    with pytest.raises(ValueError, match=message):
        task(**made).check()


def test_a_unit_that_is_not_in_the_part_is_refused() -> None:
    backbone = tiny.backbone()
    backbone.shard_units = (nn.LSTM,)
    model = tiny.model(backbone=backbone)
    with pytest.raises(WiringError, match=r"DecoderLM declares the unit LSTM .* has no such module, only DecoderAtt"):
        prepare_units(model, {}, "full")
