"""Modes of slots."""

from __future__ import annotations

from functools import partial

import peft
import pytest
import torch

import tiny
from contracts.pair import make_task
from mmcomponents.checkpoints import warn_of_drawn
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.training import MultimodalTask, ParameterOptions, SlotOptions
from mmcomponents.training.slots import param_groups

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


def test_only_some_parameters_of_a_slot_are_trained() -> None:
    made = make_task(slots={"vision": SlotOptions(only=["blocks.1.*", "position_embedding"])})
    made.configure_model()
    trained = {name for name, p in made.model.vision.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in made.model.vision.named_parameters() if n.startswith(("blocks.1.", "position"))}
    assert all(p.requires_grad for p in made.model.backbone.parameters())


def test_parameters_have_options_of_their_own() -> None:
    own = {
        "*.ls1": ParameterOptions(lr=0.3),
        "blocks.0.*": ParameterOptions(trainable=False),
        "blocks.1.*": ParameterOptions(lr=0.2, weight_decay=0.7),
    }
    made = make_task(slots={"vision": SlotOptions(lr=0.1, weight_decay=0.5, parameters=own)})
    made.configure_model()
    groups = {group["name"]: group for group in param_groups(made.model, made.slots)}
    assert (groups["vision"]["lr"], groups["vision"]["weight_decay"]) == (0.1, 0.5)
    assert (groups["vision/blocks.1.*"]["lr"], groups["vision/blocks.1.*"]["weight_decay"]) == (0.2, 0.7)
    assert groups["vision/blocks.1.*/no_decay"]["weight_decay"] == 0
    assert groups["vision/*.ls1/no_decay"]["lr"] == 0.3
    assert len(groups["vision/*.ls1/no_decay"]["params"]) == 2  # of both blocks: the first pattern applies
    assert "vision/blocks.0.*" not in groups
    assert "lr" not in groups["backbone"]
    trained = [p for p in made.model.parameters() if p.requires_grad]
    assert sorted(map(id, trained)) == sorted(id(p) for group in groups.values() for p in group["params"])


class Snapshot(TokenEmbedder):
    frozen = ("snapshot", "never.*")

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.snapshot = torch.nn.Parameter(torch.zeros(2, 3))
        self.never = torch.nn.Linear(2, 2)
        self.init_weights()


def test_what_a_part_never_trains_stays_frozen() -> None:
    made = make_task(embedder=Snapshot, slots={"embedder": SlotOptions(parameters={"*": ParameterOptions(lr=0.1)})})
    made.configure_model()
    assert {n for n, p in made.model.embedder.named_parameters() if p.requires_grad} == {"embedding.weight"}
    assert made.model.backbone.frozen_names() == set()


class NeverNorm(TokenEmbedder):
    """An embedder that is never trained."""

    frozen = ("embedding.*",)


def test_patterns_of_what_is_never_trained_are_refused() -> None:
    made = make_task(embedder=NeverNorm, slots={"embedder": SlotOptions(only=["embedding.*"])})
    with pytest.raises(ValueError, match=r"slots\.embedder\.only: NeverNorm never trains what 'embedding\.\*' matches"):
        made.configure_model()


def test_drawn_weights_that_are_not_trained_are_told(caplog: pytest.LogCaptureFixture) -> None:
    made = make_task(embedder=NeverNorm, slots={"vision": SlotOptions(only=["blocks.1.*"])})
    made.configure_model()
    assert not caplog.messages  # it is not trained
    warn_of_drawn(made.model, None)
    (line,) = caplog.messages
    frozen = [p.numel() for n, p in made.model.vision.named_parameters() if not n.startswith("blocks.1.")]
    assert f"{sum(frozen):,} of vision (InternViT), such as class_embedding; " in line
    assert "of embedder (NeverNorm), such as embedding.weight; model.weights names the folders" in line
    made.model.embedder.brought = frozenset({"embedding.weight"})
    caplog.clear()
    warn_of_drawn(made.model, None)
    assert "embedder" not in caplog.text
    caplog.clear()
    warn_of_drawn(make_configured().model, None)
    assert not caplog.messages


def make_configured() -> MultimodalTask:
    made = make_task()
    made.configure_model()
    return made


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            SlotOptions(only=["interacton.*"]),
            r"vision\.only: no parameter of InternViT matches 'interacton",
        ),
        (SlotOptions(parameters={"x": ParameterOptions()}), r"parameters: .* begin with class_embedding, position_emb"),
        (
            SlotOptions(adapter=ADAPTER, only=["blocks.*"]),
            r"only: the slot's adapter is trained instead",
        ),
        (
            SlotOptions(trainable=False, only=["blocks.*"]),
            r"vision\.only: the slot is frozen: leave out",
        ),
        (
            SlotOptions(parameters={"*": ParameterOptions(lr=1.0), "blocks.*": ParameterOptions()}),
            r"parameters: 'blocks\.\*' is never used, earlier patterns",
        ),
    ],
    ids=["only", "parameters", "adapter", "frozen", "hidden"],
)
def test_patterns_that_match_nothing_are_refused(options: SlotOptions, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_task(slots={"vision": options}).check()


def test_null_leaves_out_the_parameters_of_a_base() -> None:
    assert SlotOptions(parameters=None).parameters == {}  # type: ignore[arg-type]
