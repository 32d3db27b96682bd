from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmcomponents
import tiny
from checkpoints_models import hf_model
from mmcomponents.checkpoints import CheckpointError, load
from mmcomponents.checkpoints.initial import load_initial
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.positions import RoPE
from mmcomponents.projectors import LinearProjector
from mmcomponents.vision import InternViT, VisionEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    hf_model("300m", "qwen2", False).save_pretrained(path)
    return path


def test_a_whole_model_is_filled(folder: Path) -> None:
    model, expected = tiny.model(seed=5), mmcomponents.load(folder).state_dict()
    load_initial(model, folder)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_swapped_part_keeps_its_draw_and_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.model(projector=LinearProjector(4 * tiny.VISION, tiny.WIDTH))
    before = {name: value.clone() for name, value in model.projector.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        load_initial(model, folder)
    assert "no weights for projector: initialised randomly" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.projector.state_dict().items())
    expected = mmcomponents.load(folder).state_dict()
    assert torch.equal(model.state_dict()["vision.class_embedding"], expected["vision.class_embedding"])


def test_slots_take_from_their_own_folders(folder: Path) -> None:
    model, expected = tiny.model(seed=5), mmcomponents.load(folder).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_initial(model, {"vision": folder, "heads": folder})
    for name, value in model.state_dict().items():
        taken = name.startswith(("vision.", "heads."))
        assert torch.equal(value, (expected if taken else before)[name]), name


@pytest.mark.parametrize("rows", [50, 70])
def test_embedding_weights_of_other_lengths(folder: Path, rows: int) -> None:
    model = tiny.model(
        embedder=TokenEmbedder(rows, tiny.WIDTH),
        heads={"lm": LMHead(tiny.WIDTH, rows)},
        vision=None,
        merger=None,
        projector=None,
    )
    before, expected = model.embedder.embedding_weight().clone(), mmcomponents.load(folder)
    load_initial(model, folder)
    table, head, both = model.embedder.embedding_weight(), model.heads["lm"].weight, min(rows, 64)
    assert torch.equal(table[:both], expected.embedder.embedding_weight()[:both])
    assert torch.equal(head[:both], expected.heads["lm"].weight[:both])
    assert torch.equal(table[both:], before[both:])
    torch.testing.assert_close(head[both:], expected.heads["lm"].weight.mean(0).expand(rows - both, -1))


def test_a_tied_head_and_a_head_from_a_tied_folder(tmp_path: Path, folder: Path) -> None:
    tied = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    load_initial(tied, folder)
    assert tied.heads["lm"].weight is tied.embedder.embedding_weight()
    hf_model("300m", "qwen2", True).save_pretrained(tmp_path)
    untied = tiny.model()
    load_initial(untied, tmp_path)
    assert torch.equal(untied.heads["lm"].weight, untied.embedder.embedding_weight())


def test_what_does_not_fit_is_refused(tmp_path: Path, folder: Path) -> None:
    wide = tiny.model(vision=tiny.vision(hidden_size=36), merger=None, projector=LinearProjector(36, 32))
    with pytest.raises(CheckpointError, match=r"vision.class_embedding is \[1, 1, 24\], the model has \[1, 1, 36\]"):
        load_initial(wide, {"vision": folder})
    with pytest.raises(CheckpointError, match="weights are given for visoin; the slots are vision"):
        load_initial(tiny.model(), {"visoin": folder})
    with pytest.raises(CheckpointError, match="beyond the model"):
        load_initial(tiny.model(backbone=tiny.backbone(num_layers=1)), folder)
    with pytest.raises(CheckpointError, match=r"^no checkpoint folder"):
        load_initial(tiny.model(), tmp_path / "none")


def test_other_settings_than_the_weights_were_trained_with_are_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = tiny.model(position=RoPE(tiny.HEAD, base=10_000.0))
    load_initial(same, folder)
    assert not caplog.records
    other = tiny.model(
        merger=PixelUnshuffle(tiny.VISION, order="v1"),
        vision=tiny.vision(num_heads=2, drop_path=0.1),
        backbone=tiny.backbone(eps=1e-3),
        position=RoPE(tiny.HEAD, base=10_000.0, ntk_factor=2.0),
        heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)},
    )
    load_initial(other, folder)
    for line in (
        "vision.blocks.*.attn: num_heads is 2, was 3",
        "merger: order is 'v1', was 'v2'",
        "backbone.layers.*.input_layernorm: eps is 0.001, was 1e-06",
        "more settings differ",
    ):
        assert line in caplog.text


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bad")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("mlp.down_proj.weight"))
    state[name][0, :2] = float("nan")
    save_file(state, tmp_path / "bad" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"bad: backbone\.layers\.0\.mlp\.down_proj\.weight has 2 NaN"):
        load_initial(mmcomponents.load(folder), tmp_path / "bad")


def test_a_slot_of_another_size_is_drawn_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = tiny.model(vision=tiny.vision(hidden_size=36), merger=None, projector=LinearProjector(36, 32))
    wide.init_weights(3)
    before = wide.vision.class_embedding.detach().clone()
    load_initial(wide, folder)
    assert torch.equal(wide.vision.class_embedding, before)
    assert torch.equal(wide.embedder.embedding_weight(), load(folder).embedder.embedding_weight())
    assert "vision has other sizes than in" in caplog.text
    assert "class_embedding is [1, 1, 36] in the model and [1, 1, 24] in the folder" in caplog.text


class Gated(VisionEncoder):
    """InternViT with a gate, which may be an attribute or the base class of an encoder."""

    starts_from = ("InternViT",)

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.body = tiny.vision(**sizes)
        self.twin = tiny.vision(**sizes)
        self.hidden_size, self.image_size = self.body.hidden_size, self.body.image_size
        self.gate = torch.nn.Parameter(torch.zeros(self.hidden_size))
        self.init_weights()

    def source_name(self, name: str) -> str:
        return name.removeprefix("body.")

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        return self.body.grid(pixel_hw)

    def forward(self, images: Any) -> Any:
        return self.body(images)


class Subclass(InternViT):
    """InternViT with a further vector."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**tiny.vision_factory(**sizes).keywords)
        self.more = torch.nn.Parameter(torch.zeros(3))
        self.init_weights()


@pytest.mark.parametrize("mapping", [False, True])
@pytest.mark.parametrize("kind", [Gated, Subclass])
def test_a_part_starts_from_the_weights_of_another_class(
    folder: Path, kind: Any, mapping: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model, theirs = tiny.model(vision=kind()), load(folder)
    model.init_weights(3)
    more = {n: p.detach().clone() for n, p in model.vision.named_parameters() if n.startswith(("gate", "more", "twin"))}
    load_initial(model, {"vision": folder} if mapping else folder)
    body = model.vision.body if kind is Gated else model.vision
    for name, value in theirs.vision.named_parameters():
        assert torch.equal(body.get_parameter(name), value), name
    assert more
    assert all(torch.equal(model.vision.get_parameter(name), value) for name, value in more.items())
    count = len(list(model.vision.parameters()))
    assert f"vision takes {count - len(more)} of its {count} weights from {folder}" in caplog.text


def test_a_part_is_drawn_as_what_it_starts_from() -> None:
    plain, gated = tiny.model(), tiny.model(vision=Gated())
    for model in (plain, gated):
        model.init_weights(3)
    for name, value in plain.vision.named_parameters():
        assert torch.equal(gated.vision.body.get_parameter(name), value), name
    assert not torch.equal(gated.vision.twin.class_embedding, plain.vision.class_embedding)
    assert torch.equal(gated.vision.twin.blocks[0].ls1, plain.vision.blocks[0].ls1)  # as the inner part says


def test_a_part_within_a_part_has_a_folder_of_its_own(folder: Path) -> None:
    model, theirs = tiny.model(vision=Gated()), load(folder)
    load_initial(model, {"vision.twin": folder})
    assert torch.equal(model.vision.twin.class_embedding, theirs.vision.class_embedding)
    with pytest.raises(CheckpointError, match=r"given for vision\.twins; the parts within vision are vision\.body, "):
        load_initial(model, {"vision.twins": folder})
    other = tiny.model(vision=Gated(hidden_size=36), merger=None, projector=LinearProjector(36, 32))
    with pytest.raises(CheckpointError, match=r"vision\.twin\.class_embedding is \[1, 1, 24\], the model has"):
        load_initial(other, {"vision.twin": folder})


class Unrelated(Gated):
    starts_from = ()


def test_a_folder_for_an_unrelated_class_names_both(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="its vision is InternViT, which Unrelated does not start from"):
        load_initial(tiny.model(vision=Unrelated()), {"vision": folder})


def test_a_folder_that_is_given_for_a_tied_head_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_initial(tiny.model(heads={"lm": LMHead(32, tiny.VOCAB, tied=True)}), {"backbone": folder, "heads": folder})
    assert "heads.lm is tied to the embedding weight: what" in caplog.text
