"""Slots with weights of 4 bits: what is quantised, training, resuming, two ranks, wrong settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import tiny
from contracts.pair import make_task, micro_batches, train, train_as_rank
from mmcomponents.checkpoints import CheckpointError, merge_adapters
from mmcomponents.checkpoints.quantized_weights import restore_quantized
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.nf4_linear import NF4Linear
from mmcomponents.objectives import MPO, NextToken
from mmcomponents.positions import V2PE
from mmcomponents.testing import Ranks, small_parts, text_packs
from mmcomponents.testing.case import Case, loss_and_gradients
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.training import FSDP2Strategy, MultimodalTask, SlotOptions, quantization
from mmcomponents.training.flops import step_factors, work
from mmcomponents.training.quantization import quantize_slots
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units

TARGETS = ["q_proj", "v_proj", "down_proj"]
LORA = peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False)
SLOTS = {
    "vision": SlotOptions(trainable=False, quantization="nf4"),
    "backbone": SlotOptions(adapter=LORA, quantization="nf4"),
}
PACKS = [pack for rows in micro_batches(4, 1, 1) for row in rows for pack in row]
BATCH = PACKS[0]


def built(**changes: Any) -> MultimodalTask:
    made = make_task(**{"slots": SLOTS, **changes})
    made.configure_model()
    return made.eval()


def model_of(task: MultimodalTask) -> MultimodalModel:
    assert task.model is not None
    return task.model


def gradients(model: MultimodalModel) -> dict[str, Tensor]:
    loss, found = loss_and_gradients(model, NextToken(), [BATCH])
    return {"loss": loss, **found}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_linear_maps_of_the_slots_are_quantised_and_nothing_else() -> None:
    quantised, plain = model_of(built()), model_of(built(slots={"backbone": SlotOptions(adapter=LORA)}))
    maps = {name for name, module in quantised.named_modules() if isinstance(module, NF4Linear)}
    assert len(maps) == 2 * 4 + 2 * 7
    assert all(name.startswith(("vision.blocks.", "backbone.layers.")) for name in maps)
    assert not any("lora" in name for name in maps)
    own = dict(plain.named_parameters())
    for name, parameter in quantised.named_parameters():
        assert torch.equal(parameter, own[name]), name
    for name in maps:
        weight, given = quantised.get_submodule(name).weight, own[f"{name}.weight"].detach()
        assert 0.05 < (weight - given).norm() / given.norm() < 0.13


@pytest.mark.parametrize("setting", ["none", "selective", "full"])
def test_values_and_gradients_are_those_of_the_restored_weights(setting: Checkpointing) -> None:
    quantised, plain = model_of(built()), model_of(built())
    restore_quantized(plain)
    prepare_units(quantised, {}, setting)
    assert not [name for name, module in plain.named_modules() if isinstance(module, NF4Linear)]
    assert_equal(gradients(quantised), gradients(plain))


def test_weights_are_quantised_once_they_are_loaded(tmp_path: Path) -> None:
    other = make_task(seed=7)
    other.configure_model()
    folder = write_folder(Case("backbone", None, small_parts(position=V2PE), text_packs), model_of(other), tmp_path)
    started = model_of(built(weights=str(folder)))
    name = "backbone.layers.1.mlp.up_proj"
    expected = NF4Linear(model_of(other).get_submodule(name))  # type: ignore[arg-type]
    assert torch.equal(started.get_submodule(name).codes, expected.codes)


def test_adapters_are_merged_into_restored_weights() -> None:
    task = built()
    model = model_of(task)
    with torch.no_grad():
        before = tiny.logits(model, BATCH)
        merge_adapters(model)
        torch.testing.assert_close(tiny.logits(model, BATCH), before, rtol=1e-5, atol=1e-5)
    whole = make_task()
    whole.configure_model()
    assert model.state_dict().keys() == model_of(whole).state_dict().keys()


def test_a_run_goes_on_exactly(tmp_path: Path) -> None:
    path, task = str(tmp_path / "half.ckpt"), {"slots": SLOTS}
    whole = train(PACKS, 1, task)
    train(PACKS[:2], 1, task, save_to=path)
    resumed = train(PACKS[2:], 1, {**task, "seed": 3}, ckpt_path=path, max_epochs=2)
    assert resumed["losses"] == whole["losses"][2:]
    assert_equal(resumed["weights"], whole["weights"])
    assert any(name.endswith("q_proj.base_layer.codes") for name in whole["weights"])


def test_a_reference_has_the_same_quantised_weights() -> None:
    task = make_task(slots=SLOTS, objective=MPO)
    task.configure_model()
    reference = task._another_model()
    own = model_of(task).state_dict()
    assert_equal(reference.state_dict(), own)


def test_counts_include_quantised_weights() -> None:
    quantised, plain = model_of(built()), model_of(built(slots={n: SlotOptions(adapter=LORA) for n in ["backbone"]}))
    plain.vision.requires_grad_(False)
    assert work(quantised, BATCH) == work(plain, BATCH)
    assert step_factors(quantised) == step_factors(plain)


def test_two_ranks_equal_one(two_ranks: Ranks) -> None:
    """LoRA starts neutral here: `init_lora_weights=False` draws values on each rank."""
    lora = peft.LoraConfig(r=4, target_modules=TARGETS)
    task = {"slots": {**SLOTS, "backbone": SlotOptions(adapter=lora, quantization="nf4")}}
    packs = [pack for rows in micro_batches(2, 2, 2) for row in rows for pack in row]
    one = train(packs, 4, task)
    first, second = two_ranks.run(train_as_rank, "ddp", 2, 2, {"task": task})
    for found in (first, second):
        torch.testing.assert_close(found["losses"], one["losses"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found["weights"], one["weights"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        (
            {"backbone": SlotOptions(quantization="nf4")},
            r"backbone\.quantization: quantised weights cannot be trained",
        ),
        (
            {"embedder": SlotOptions(trainable=False, quantization="nf4")},
            r"slots\.embedder\.quantization: TokenEmbedder has no linear maps",
        ),
    ],
    ids=["trained", "without linear maps"],
)
def test_what_cannot_be_quantised_is_refused_before_any_weight_exists(slots: Any, said: str) -> None:
    with pytest.raises((MisconfigurationException, WiringError), match=said):
        make_task(slots=slots).check()


def test_sharding_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(slots=SLOTS)
    task.trainer = Trainer(accelerator="cpu", devices=1, strategy=FSDP2Strategy(), logger=False)
    with pytest.raises(MisconfigurationException, match=r"FSDP2Strategy shards parameters.*ddp or auto"):
        task.configure_model()
    monkeypatch.setattr(quantization, "has_kernels", lambda: False)
    with pytest.raises(MisconfigurationException, match=r'not installed: pip install "mmcomponents\[bitsandbytes\]"'):
        make_task(slots=SLOTS).check()


class Scaled(torch.nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


def test_maps_that_compute_something_else_are_left_and_told(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.model()
    first, second = model.backbone.layers
    first.self_attn.o_proj = Scaled(32, 32)
    second.self_attn.o_proj.register_forward_hook(lambda module, args, out: 2 * out)
    options = {"backbone": SlotOptions(trainable=False, quantization="nf4")}
    quantize_slots(model, options)
    assert type(first.self_attn.o_proj) is Scaled
    assert isinstance(first.self_attn.q_proj, NF4Linear)
    assert not isinstance(second.self_attn.o_proj, NF4Linear)
    assert "slots.backbone.quantization: 2 maps (Linear, Scaled) are not quantised" in caplog.text


@pytest.mark.parametrize(
    "config",
    [
        peft.RandLoraConfig(r=4, target_modules=["q_proj"]),
        peft.GraloraConfig(r=4, gralora_k=2, target_modules=["q_proj"]),
        peft.LoraConfig(r=4, target_modules="all-linear"),
    ],
    ids=["RandLora", "GraLoRA", "LoRA"],
)
def test_adapters_of_all_kinds_are_trained(config: peft.PeftConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Layers of some methods are themselves `nn.Linear`."""
    trained = {}
    for quantized in (None, "nf4"):
        model = model_of(built(slots={"backbone": SlotOptions(adapter=config, quantization=quantized)}))
        trained[quantized] = {name for name, p in model.backbone.named_parameters() if p.requires_grad}
        assert {
            type(m).__name__ == "NF4Linear" for n, m in model.named_modules() if n.endswith("q_proj.base_layer")
        } == {quantized == "nf4"}
    assert "not quantised" not in caplog.text
    assert trained["nf4"] == trained[None]
    assert trained[None]


def test_averages_of_codes_are_refused() -> None:
    task = make_task(slots=SLOTS)
    for use_buffers in (True, False):
        average = EMAWeightAveraging(use_buffers=use_buffers)
        task.trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[average])
        if use_buffers:
            with pytest.raises(MisconfigurationException, match="EMAWeightAveraging averages buffers"):
                task.configure_model()
    train(PACKS, 1, {"slots": SLOTS}, callbacks=[EMAWeightAveraging(use_buffers=False)])


@pytest.mark.parametrize(
    ("saved", "resumed", "said"),
    [
        (
            SLOTS,
            {"backbone": SlotOptions(adapter=LORA)},
            r"has quantised weights for backbone, vision: set model\.s",
        ),
        ({"backbone": SlotOptions(adapter=LORA)}, SLOTS, "has no quantised weights for backbone, vision: set .*: null"),
    ],
    ids=["more", "less"],
)
def test_a_checkpoint_of_the_other_kind_is_one_line(tmp_path: Path, saved: Any, resumed: Any, said: str) -> None:
    train(PACKS[:1], 1, {"slots": saved}, save_to=str(tmp_path / "run.ckpt"))
    with pytest.raises(CheckpointError, match=said):
        train(PACKS[1:], 1, {"slots": resumed}, ckpt_path=str(tmp_path / "run.ckpt"), max_epochs=2)


class Coded(TokenEmbedder):
    """Embedder with a buffer of the name that quantised maps use."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.book = torch.nn.Module()
        self.book.register_buffer("codes", torch.arange(3))


def test_a_buffer_of_a_part_is_no_quantised_weight(tmp_path: Path) -> None:
    train(PACKS[:1], 1, {"embedder": Coded}, save_to=str(tmp_path / "run.ckpt"))
    train(PACKS[1:], 1, {"embedder": Coded}, ckpt_path=str(tmp_path / "run.ckpt"), max_epochs=2)


def sent_as_rank(rank: int, task: dict[str, Any]) -> list[int]:
    """Returns the sizes of the buffers that DDP sends in each step."""
    sent: list[int] = []
    plain = DistributedDataParallel._sync_module_buffers

    def count(module: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
        sent.append(sum(buffer.nbytes for buffer in module.modules_buffers))
        plain(module, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistributedDataParallel, "_sync_module_buffers", count)
        train_as_rank(rank, "ddp", 2, 1, {"task": task})
    return sent


def test_ddp_does_not_send_quantised_weights(two_ranks: Ranks) -> None:
    sent, _ = two_ranks.run(sent_as_rank, {"slots": SLOTS})
    assert set(sent) <= {0}


def test_compiled_units_compute_the_same() -> None:
    torch._dynamo.reset()
    task = built(backbone=partial(tiny.backbone_factory(num_layers=1)))
    quantised, compiled = model_of(task), model_of(built(backbone=partial(tiny.backbone_factory(num_layers=1))))
    prepare_units(compiled, {"backbone": SlotOptions(compile=True)})
    found, expected = gradients(compiled), gradients(quantised)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)
