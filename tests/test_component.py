from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypedDict

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.backbones import DecoderLM, ExpertDecoderLM, TransformersLM
from mmcomponents.batch import FeatureMap, ImageBatch, Layout, VisualFeatures
from mmcomponents.component import Component, WiringError
from mmcomponents.compose import Factories
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.fusers import GatedMerge
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle, QFormer
from mmcomponents.movable import Exact
from mmcomponents.objectives import MPO, NextToken
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import LinearProjector, LlavaProjector, MLPProjector, ModuleProjector, TwoMap
from mmcomponents.sequence import one_sequence
from mmcomponents.training import FSDP2Strategy, ParameterOptions, SlotOptions
from mmcomponents.vision import InternViT


def test_matrices_are_as_wide_as_their_fan_in_asks() -> None:
    head = LMHead(400, 900)
    head.init_weights(0)
    assert float(head.weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)


def test_parts_of_one_model_do_not_start_alike() -> None:
    one, two = LMHead(32, 64), LMHead(32, 64)
    one.init_weights(3, "heads.a")
    two.init_weights(3, "heads.b")
    assert not torch.equal(one.weight, two.weight)
    two.init_weights(3, "heads.a")
    assert torch.equal(one.weight, two.weight)


def test_a_tied_table_starts_as_its_owner_says() -> None:
    tied = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    untied = tiny.model()
    for model in (tied, untied):
        model.init_weights(5)
    assert torch.equal(tied.embedder.embedding_weight(), untied.embedder.embedding_weight())
    assert not torch.equal(tied.embedder.embedding_weight(), untied.heads["lm"].weight)


def test_nothing_is_drawn_on_the_meta_device() -> None:
    with torch.device("meta"):
        part = TokenEmbedder(8, 4)
    part.init_weights(0)
    assert part.embedding_weight().is_meta


class Buffered(LMHead):
    def __init__(self) -> None:
        super().__init__(4, 8)
        self.inner = torch.nn.Module()
        self.inner.register_buffer("scale", torch.full((3,), 2.0), persistent=False)
        self.inner.register_buffer("none", torch.zeros(0), persistent=False)


class Filled(Buffered):
    def init_buffer(self, name, value) -> bool:
        assert name == "inner.scale"
        value.fill_(2.0)
        return True


def test_buffers_are_filled_after_the_meta_device() -> None:
    with torch.device("meta"):
        part, empty = Filled(), Buffered()
    values = part.buffer_values("cpu")
    assert torch.equal(values["inner.scale"], torch.full((3,), 2.0))
    part.set_buffers(values)
    assert torch.equal(part.inner.scale, torch.full((3,), 2.0))
    with pytest.raises(WiringError, match=r"Buffered has the buffer inner\.scale, whose values the meta"):
        empty.buffer_values("cpu")


def test_buffers_with_values_are_copied() -> None:
    part = Buffered()
    values = part.buffer_values("cpu")
    values["inner.scale"].zero_()
    assert torch.equal(part.inner.scale, torch.full((3,), 2.0))


class Shared(Filled):
    """Has one buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.other = torch.nn.Module()
        self.other.register_buffer("scale", self.inner.scale, persistent=False)


def test_a_buffer_of_two_modules_stays_one() -> None:
    with torch.device("meta"):
        part = Shared()
    part.set_buffers(part.buffer_values("cpu"))
    assert part.inner.scale is part.other.scale
    assert torch.equal(part.other.scale, torch.full((3,), 2.0))


def test_a_wrapped_layer_has_the_name_of_its_buffer_without_the_wrapper() -> None:
    with torch.device("meta"):
        part = Filled()
        wrapper = torch.nn.Module()
        wrapper.base_layer = part.inner
        part.inner = wrapper
    assert torch.equal(part.buffer_values("cpu")["inner.base_layer.scale"], torch.full((3,), 2.0))


def test_excluded_buffers_are_left_out() -> None:
    with torch.device("meta"):
        part = Buffered()
    assert part.buffer_values("cpu", {id(part.inner.scale), id(part.inner.none)}) == {}


def test_a_part_shows_its_widths_and_settings() -> None:
    assert repr(PixelUnshuffle(24)) == "PixelUnshuffle(in_features=24, rows=2, columns=2, order='v2')"
    assert "MLPProjector(\n  in_features=8, out_features=4" in repr(MLPProjector(8, 4))
    assert "num_layers=2, num_heads=4, intermediate_size=48, num_kv_heads=2" in repr(tiny.model().backbone)
    assert "delta=0.25" in repr(V2PE(8, delta=0.25))
    assert "LMHead(in_features=8, vocab_size=16)" in repr(LMHead(8, 16))
    assert "weighting='square'" in repr(NextToken())


@pytest.mark.parametrize(
    ("construct", "told"),
    [
        (lambda: NextToken(weighting="cube"), "weighting must be one of 'token', 'sample', 'square', got 'cube'"),
        (lambda: NextToken(sources=-1), "sources must be a finite number of at least 0, got -1"),
        (lambda: MPO(bco_weight=-1.0), "bco_weight must be a finite number of at least 0"),
        (lambda: PixelUnshuffle(8, order="v3"), "order must be one of 'v1', 'v2', got 'v3'"),
        (lambda: DecoderLM(32, 1, 4, 48, attention="flash"), "attention must be one of 'auto', 'xformers'"),
        (lambda: InternViT(24, 1, 3, 40, norm="batch"), "norm must be one of 'layer_norm', 'rms_norm'"),
        (lambda: InternViT(24, 1, 3, 40, attention="flash"), "attention must be one of 'auto', 'xformers'"),
        (lambda: FSDP2Strategy(compute_dtype="bfloat16"), "compute_dtype must be one of 'fp32', 'bf16', 'fp16'"),
        (lambda: FSDP2Strategy(replicate=0), "replicate must be from 1"),
        (lambda: SlotOptions(quantization="int4"), "quantization must be 'nf4', got 'int4'"),
        (lambda: SlotOptions(activation_checkpointing="some"), "activation_checkpointing must be one of 'none'"),
        (lambda: ParameterOptions(lr=-1.0), "lr must be a finite number of at least 0, got -1"),
    ],
)
def test_arguments_are_checked_in_the_constructor(construct: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        construct()


PLAIN = torch.zeros(1, 16, 32)
IDS = torch.tensor([1, 2, 3])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: tiny.vision()(PLAIN),
            r"InternViT takes images: ImageBatch\(pixels, tile_image\) of .*batch, got Tensor",
        ),
        (lambda: PixelUnshuffle(32)(PLAIN), r"PixelUnshuffle takes features: VisualFeatures\(maps\) of .*, got Tensor"),
        (lambda: MLPProjector(32, 8)(features=PLAIN), "MLPProjector takes features: VisualFeatures"),
        (lambda: TokenEmbedder(64, 32)(IDS, None), r"TokenEmbedder takes batch: PackedBatch\(…\) of .*, got Tensor"),
        (lambda: LMHead(32, 64)(PLAIN, None), r"LMHead takes state: ModelState of .*, got Tensor"),
        (lambda: tiny.backbone()(PLAIN[0], IDS), "DecoderLM takes layout: Layout"),
        (lambda: NextToken()(tiny.model(), IDS, {}), "NextToken takes batch: PackedBatch"),
        (lambda: V2PE(8).rotary(IDS), r"V2PE takes a Layout, such as one_sequence\(ids\).layout, got Tensor"),
        (lambda: RoPE(8).ticks(IDS), "RoPE takes a Layout"),
        (lambda: tiny.model()(IDS), "the model takes a PackedBatch, got Tensor: logits takes plain tensors"),
        (lambda: one_sequence([1, 2]), "input_ids must be a tensor of int64 or int32, got list"),
        (lambda: one_sequence(IDS.float()), "input_ids must be a tensor of int64 or int32, got torch.float32"),
        (lambda: one_sequence(IDS, [1], 2), r"pixel_values must be a tensor \[N, 3, H, W\], got list"),
        (lambda: Exact((PLAIN, PLAIN)), r"as in Exact\(cos, sin\): got a tuple"),
        (lambda: FeatureMap(PLAIN, 4), r"hw is \(rows, columns\), got 4"),
        (lambda: VisualFeatures(PLAIN), r"maps is a list of FeatureMap\(tokens, \(rows, columns\)\), got a Tensor"),
        (lambda: VisualFeatures([PLAIN]), "got a list with a Tensor"),
    ],
)
def test_arguments_of_another_class_are_named(call: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        call()


LAYOUT = one_sequence(IDS).layout


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: FeatureMap(torch.zeros(1, 8, 4, 4), (4, 4)),
            r"map of 4 x 4 are \[N, 16, C\], got \[1, 8, 4, 4\]",
        ),
        (lambda: replace(LAYOUT, image_id=IDS[:2]), r"token_type is \[3\] and image_id \[2\]"),
        (lambda: replace(LAYOUT, delta_log2=IDS), r"delta_log2 is \[3\] and grid is of 0 images"),
        (
            lambda: one_sequence(IDS, torch.zeros(1, 3, 8, 8)),
            r"pixel_values need image_token_id \(an argument of one_seq",
        ),
        (lambda: VisualFeatures([]), "maps is empty"),
        (
            lambda: Factories(backbone=tiny.backbone_factory(), position=V2PE(8)).build(None, None),
            "the position is an instance of V2PE: give the class, or functools.partial of it",
        ),
        (
            lambda: Factories(backbone=tiny.backbone_factory(), heads={"lm": LMHead(32, 64)}).build(64, None),
            "the head lm is an instance of LMHead: give the class, or functools.partial of it",
        ),
    ],
)
def test_tensors_of_another_shape_are_refused(call: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


@pytest.mark.parametrize("kind", [DecoderLM, TransformersLM, ExpertDecoderLM])
def test_backbones_check_their_sequence(kind: type) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    body = kind({"model_type": "qwen3", "head_dim": 8, **small}) if kind is TransformersLM else kind(32, 1, 4, 48)
    with pytest.raises(ValueError, match=rf"{kind.__name__} takes .* = \[3, 32\].*, got \[1, 16, 32\]"):
        body(PLAIN, LAYOUT)
    for other in (V2PE(16).rotary(LAYOUT), V2PE(8).rotary(Layout.of_text([2]))):
        with pytest.raises(ValueError, match="rotary tables"):
            body(PLAIN[0, :3], LAYOUT, other)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (MLPProjector(8, 8), "MLPProjector takes feature maps of width 8, got 32"),
        (LinearProjector(8, 8), "LinearProjector takes feature maps of width 8, got 32"),
        (LlavaProjector(8, 8), "LlavaProjector takes feature maps of width 8, got 32"),
        (ModuleProjector(8, 8, torch.nn.Linear), "ModuleProjector takes feature maps of width 8, got 32"),
        (TwoMap((8, 8), 8, 4), r"TwoMap takes feature maps of width \(8, 8\), got \(32,\)"),
        (PixelUnshuffle(8), "PixelUnshuffle takes feature maps of width 8, got 32"),
        (QFormer(8, 8, 2, 1, 2), "QFormer takes feature maps of width 8, got 32"),
        (GatedMerge((8, 8), 1), r"GatedMerge takes feature maps of width \(8, 8\), got \(32,\)"),
    ],
)
def test_maps_of_another_width_are_told(part: Component, told: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=told):
        part(VisualFeatures([FeatureMap(PLAIN, (4, 4))]))


class Fields(TypedDict):
    x: int


class Failing(Component):
    """A part with a fault of its own."""

    def forward(
        self,
        x: Tensor,
        scale: float = 1.0,
        other: Any = None,
        fields: Fields | None = None,
        last: int = 0,
        **more: int,
    ) -> Tensor:
        return x.no_such_attribute


class Unreadable(Component):
    def forward(self, x: Tensor, other: "Unknown" = None) -> Tensor:  # noqa: F821
        return x.no_such_attribute


@pytest.mark.parametrize(
    ("part", "arguments", "names"),
    [
        (Failing(), (PLAIN,), {}),
        (Failing(), (PLAIN, 2, 3, {"x": 1}, 4), {"y": 1}),
        (Unreadable(), (PLAIN, 3), {}),
    ],
)
def test_errors_of_right_arguments_stay_as_they_are(
    part: Component, arguments: tuple[Any, ...], names: dict[str, Any]
) -> None:
    with pytest.raises(AttributeError, match="no_such_attribute") as caught:
        part(*arguments, **names)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ((PLAIN, "2"), "Failing takes scale: float, got str"),
        ((PLAIN, 1.0, 3, {"x": 1}, "4"), "Failing takes last: int, got str"),
    ],
)
def test_errors_that_another_argument_has_caused_stay_with_a_note(arguments: tuple[Any, ...], note: str) -> None:
    with pytest.raises(AttributeError, match="no_such_attribute") as caught:
        Failing()(*arguments)
    assert caught.value.__notes__ == [note]


def test_a_missing_argument_is_told_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'layout'"):
        tiny.backbone()(PLAIN[0])


def test_a_part_compiles_as_one_graph() -> None:
    tiles = ImageBatch(torch.randn(1, 3, tiny.TILE, tiny.TILE), torch.zeros(1, dtype=torch.int64))
    part = tiny.vision()
    found = torch.compile(part, fullgraph=True, backend="eager")(tiles).primary.tokens
    torch.testing.assert_close(found, part(tiles).primary.tokens)
