"""peft adapters in slots: neutral initialisation, trained weights, initial weights, merging, two ranks."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

import tiny
from checkpoints_models import hf_model
from contracts.pair import Sized, make_task, micro_batches, train, train_as_rank
from contracts.tiny_parts import language_model
from mmcomponents.checkpoints import CheckpointError, load, load_initial, merge_adapters
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.heads import Head, LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import V2PE
from mmcomponents.projectors import MLPProjector
from mmcomponents.testing import Ranks, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.training import MultimodalTask, SlotOptions, adapters, task
from mmcomponents.training.adapters import AdapterError, inject_adapters, start_adapters
from mmcomponents.training.distributed.sharding import materialize
from mmcomponents.training.flops import step_factors
from mmcomponents.training.slots import param_groups

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
TWINS = ["heads.one", "heads.two"]
BATCH = tiny.pack([("t", 5), ("i", 1), ("t", 6)])
PACKS = [tiny.pack([("t", 4), ("i", 1), ("t", 8)], seed=n) for n in range(4)]
METHODS: dict[str, tuple[peft.PeftConfig, float]] = {  # with the tolerance for rounding of a neutral initialisation
    "LoRA": (LORA, 0.0),
    "all linear maps": (peft.LoraConfig(r=4, target_modules="all-linear"), 0.0),
    "a rank for one layer": (peft.LoraConfig(r=4, target_modules=TARGETS, rank_pattern={"layers.1.mlp.up_proj": 2}), 0),
    "DoRA": (peft.LoraConfig(r=4, target_modules=TARGETS, use_dora=True), 0.0),
    "PiSSA": (peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa"), 2e-5),
    "IA3": (peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]), 0.0),
    "LoHa": (peft.LoHaConfig(r=4, target_modules=TARGETS), 0.0),
}


def built(**options: Any) -> MultimodalTask:
    made = make_task(**options)
    made.configure_model()
    made.eval()
    return made


def logits(made: MultimodalTask) -> Tensor:
    assert made.model is not None
    with torch.no_grad():
        return tiny.logits(made.model, BATCH)


def with_adapter(config: peft.PeftConfig, slot: str = "backbone", **options: Any) -> MultimodalTask:
    return built(slots={slot: SlotOptions(adapter=config)}, **options)


def move(model: MultimodalModel) -> None:
    """Changes the trained weights of the backbone, as a step would."""
    with torch.no_grad():
        for p in model.backbone.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_start_off_and_merge(method: str) -> None:
    config, rounding = METHODS[method]
    plain, made = built(), with_adapter(config)
    torch.testing.assert_close(logits(made), logits(plain), rtol=0, atol=rounding)
    move(made.model)
    moved = logits(made)
    assert (moved - logits(plain)).abs().max() > 0.05
    layers = [m for m in made.modules() if isinstance(m, BaseTunerLayer)]
    assert {layer.base_was_changed for layer in layers} == {method == "PiSSA"}
    if method != "PiSSA":  # PiSSA moves weight from the base into the adapter
        for layer in layers:
            layer.enable_adapters(False)
        assert torch.equal(logits(made), logits(plain))
        for layer in layers:
            layer.enable_adapters(True)
    merge_adapters(made.model)
    torch.testing.assert_close(logits(made), moved, rtol=1e-5, atol=1e-5)
    assert made.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize(
    "config",
    [peft.OFTConfig(target_modules=["q_proj"], oft_block_size=8), peft.RandLoraConfig(r=4, target_modules=["q_proj"])],
    ids=["OFT", "RandLora"],
)
def test_adapters_with_buffers_work_on_the_meta_device_and_with_weights(
    config: peft.PeftConfig, tmp_path: Path
) -> None:
    """Their buffers are those of the adapter, not of the part, and are in no folder."""
    slots = {"backbone": SlotOptions(adapter=config)}
    plain, made = with_adapter(config).model, make_task(slots=slots)
    with torch.device("meta"):
        model = made.factories.build(made.vocab_size, made.image_token_id)
    inject_adapters(model, slots)
    materialize(model, torch.device("cpu"), made.seed)
    start_adapters(model, made.seed)
    assert [name for name, buffer in model.named_buffers() if buffer.isnan().any()] == []
    assert torch.equal(tiny.logits(model.eval(), BATCH), tiny.logits(plain, BATCH))
    folder = write_folder(Case("backbone", None, small_parts(position=V2PE), text_packs), built(seed=7).model, tmp_path)
    load_initial(model, folder)
    assert torch.equal(model.get_parameter("embedder.embedding.weight"), load(folder).embedder.embedding_weight())


def test_the_start_depends_on_the_seed_and_moves_no_random_numbers() -> None:
    torch.manual_seed(5)
    one = with_adapter(LORA)
    after = torch.rand(3)
    torch.manual_seed(5)
    built()
    assert torch.equal(torch.rand(3), after)
    name = "backbone.layers.1.mlp.up_proj.lora_A.default.weight"
    same, other = with_adapter(LORA), with_adapter(LORA, seed=1)
    assert torch.equal(one.model.get_parameter(name), same.model.get_parameter(name))
    assert not torch.equal(one.model.get_parameter(name), other.model.get_parameter(name))
    assert not torch.equal(one.model.get_parameter(name), one.model.get_parameter(name.replace("1", "0")))
    assert peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS) == LORA  # peft modified a copy


class Twin(Head):
    """Head with a linear map, whose layers have the same names in every head of the class."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(hidden_size, vocab_size)

    def forward(self, state: Any, batch: Any) -> Tensor:
        return self.proj(state.hidden)


def test_slots_with_layers_of_the_same_name_start_differently() -> None:
    lora = peft.LoraConfig(r=4, target_modules=["proj"])
    made = built(heads={"lm": LMHead, "one": Twin, "two": Twin}, slots={n: SlotOptions(adapter=lora) for n in TWINS})
    one, two = (made.model.get_parameter(f"{name}.proj.lora_A.default.weight") for name in TWINS)
    assert one.std() > 0
    assert not torch.equal(one, two)


def test_only_the_adapter_of_the_slot_is_trained() -> None:
    lora = peft.LoraConfig(r=4, target_modules=["qkv", "proj", "fc1", "fc2"])
    made = built(
        slots={
            "vision": SlotOptions(trainable=False, adapter=lora, lr=0.5, weight_decay=0.1),
            "backbone": SlotOptions(trainable=False),
            "projector": SlotOptions(adapter=peft.LoraConfig(r=2, target_modules=["fc1"])),
        }
    )
    trained = {name for name, p in made.model.named_parameters() if p.requires_grad}
    kinds = {name.split(".")[0] for name in trained}
    assert kinds == {"vision", "projector", "embedder", "heads"}
    assert all(".lora_" in name for name in trained if name.startswith(("vision", "projector")))
    assert sum(name.startswith("vision") for name in trained) == 2 * 4 * 2
    groups = {group["name"]: group for group in param_groups(made.model, made.slots)}
    assert groups["vision"]["lr"] == 0.5
    assert groups["vision"]["weight_decay"] == 0.1
    assert len(groups["vision"]["params"]) == 16
    assert not [name for name in groups if name.startswith("backbone")]
    factors = step_factors(made.model)
    assert 2 < factors["vision"] < 2.5
    assert factors["backbone"] == 2


@pytest.mark.parametrize("trainable", [True, False])
def test_modes_are_those_of_the_slot_and_the_adapters_dropout_is_on(trainable: bool) -> None:
    lora = peft.LoraConfig(target_modules=["qkv"], lora_dropout=0.5)
    made = make_task(
        vision=partial(tiny.vision, drop_path=0.5), slots={"vision": SlotOptions(trainable=trainable, adapter=lora)}
    )
    made.configure_model()
    made.train()
    block = made.model.vision.blocks[1]
    assert block.drop_path.training is trainable
    assert block.attn.qkv.base_layer.training is trainable
    assert block.attn.qkv.lora_dropout["default"].training
    made.eval()
    assert not any(m.training for m in made.modules())


@pytest.mark.parametrize(
    ("slot", "config", "said"),
    [
        (
            "backbone",
            peft.LoraConfig(target_modules=["q_porj", "k_proj", "quux"]),
            r"slots\.backbone\.adapter: DecoderLM has no modules q_porj, quux \(target_modules\); did you mean q_proj",
        ),
        ("backbone", peft.LoraConfig(target_modules=["zz"]), r"no modules zz \(target_modules\); it has q_proj"),
        ("backbone", peft.LoraConfig(target_modules=r"nothing\d"), r"slots\.backbone\.adapter: LoraConfig: Target"),
        ("backbone", peft.LoraConfig(target_modules=["norm"]), r"adapter: LoraConfig: Target module RMSNorm"),
        ("heads", peft.LoraConfig(target_modules=["weight"]), r"slots\.heads\.lm\.adapter: LMHead has no modules that"),
        ("merger", LORA, r"slots\.merger\.adapter: PixelUnshuffle has no modules that can have an adapter"),
        ("backbone", peft.PromptTuningConfig(num_virtual_tokens=2), r"slots\.backbone\.adapter: PromptTuningConfig: "),
        ("backbone", peft.VeraConfig(target_modules=["q_proj"]), r"VeraConfig: .* uses shared state"),
        (
            "backbone",
            peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]),
            r"modules_to_save is not supported",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_one_clear_error(slot: str, config: peft.PeftConfig, said: str) -> None:
    with pytest.raises(AdapterError, match=said):
        make_task(slots={slot: SlotOptions(adapter=config)}).check()


class Reading(MLPProjector):
    """Projector that gets the embedding weight."""

    needs_embedding_weight = True


def test_a_embedding_weight_that_others_read_takes_no_adapter() -> None:
    slots = {"embedder": SlotOptions(adapter=peft.LoraConfig(target_modules=["embedding"]))}
    with pytest.raises(
        AdapterError, match=r"the embedding weight cannot have an adapter, since heads\.lm is tied to it"
    ):
        make_task(slots=slots, heads={"lm": partial(LMHead, tied=True)}).check()
    with pytest.raises(AdapterError, match="cannot have an adapter, since the projector reads it"):
        make_task(slots=slots, projector=Reading).check()
    make_task(slots=slots, vision=None, merger=None, projector=None).check()
    torch.testing.assert_close(logits(built(slots=slots)), logits(built()), rtol=0, atol=0)


def test_a_model_with_adapters_starts_from_a_folder(tmp_path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    start = {"weights": str(tmp_path), "position": partial(V2PE, base=10_000.0)}
    for config in (LORA, METHODS["DoRA"][0]):
        assert torch.equal(logits(with_adapter(config, **start)), logits(built(**start)))
    assert not torch.equal(logits(built(**start)), logits(built()))


def test_a_model_of_transformers_takes_adapters() -> None:
    foreign = {"backbone": language_model("llama"), "position": None}
    made = with_adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]), **foreign)
    assert torch.equal(logits(made), logits(built(**foreign)))
    assert sum(p.requires_grad for p in made.model.backbone.parameters()) == 8
    move(made.model)
    moved = logits(made)
    merge_adapters(made.model)
    torch.testing.assert_close(logits(made), moved, rtol=1e-5, atol=1e-5)


def test_what_is_broken_is_not_merged() -> None:
    made = with_adapter(LORA)
    with torch.no_grad():
        made.model.get_parameter("backbone.layers.0.mlp.up_proj.lora_B.default.weight").fill_(torch.nan)
    with pytest.raises(CheckpointError, match=r"the adapter of layers\.0\.mlp\.up_proj cannot be merged: NaNs"):
        merge_adapters(made.model.backbone)


def test_a_run_goes_on_from_plain_data(tmp_path) -> None:
    slots = {"backbone": SlotOptions(adapter=LORA)}

    def run(packs: list[Any], epochs: int, ckpt: str | None = None) -> MultimodalTask:
        made = make_task(slots=copy.deepcopy(slots))
        trainer = Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(made, Lookahead(Sized(packs), 1, made.counts), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return made

    whole = run(PACKS, 1)
    run(PACKS[:2], 1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert "slots" not in saved["hyper_parameters"]
    rest = run(PACKS[2:], 2, str(tmp_path / "last.ckpt"))
    start = built(slots=slots).model.state_dict()
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(rest.model.state_dict()[name], value, rtol=0, atol=0)
        changes = ".lora_" in name or not name.startswith("backbone.")
        assert torch.equal(value, start[name]) is not (changes and value.numel() > 0), name


TWO_RANKS = {
    "slots": {
        "backbone": SlotOptions(adapter=peft.LoraConfig(r=4, target_modules=TARGETS, use_dora=True)),
        "vision": SlotOptions(adapter=peft.LoraConfig(r=4, target_modules=["qkv", "proj", "fc1", "fc2"])),
    }
}


def train_without_start(rank: int) -> dict[str, Any]:
    """Disables `start_adapters`: each adapter keeps its random initialisation."""
    task.start_adapters = lambda model, seed: None  # type: ignore[attr-defined]
    try:
        return train_as_rank(rank, "fsdp2", 2, 2, {"task": TWO_RANKS})
    finally:
        task.start_adapters = adapters.start_adapters  # type: ignore[attr-defined]


def test_two_ranks_equal_one(two_ranks: Ranks) -> None:
    packs = [pack for rows in micro_batches(2, 2, 2) for row in rows for pack in row]
    one = train(packs, 4, TWO_RANKS)
    first, second = two_ranks.run(train_as_rank, "fsdp2", 2, 2, {"task": TWO_RANKS})
    for found in (first, second):
        torch.testing.assert_close(found["losses"], one["losses"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["weights"], one["weights"], rtol=1e-5, atol=1e-5)
    broken, _ = two_ranks.run(train_without_start)
    assert abs(broken["losses"][0] - one["losses"][0]) > 0.01
