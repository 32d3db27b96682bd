"""Holistic embedding: neutral depth, causality across modalities, caches of both stacks, and frozen language models."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import tiny
from contracts.pair import make_task, micro_batches, train
from contracts.tiny_parts import HOLISTIC, PATCH_HOLISTIC, STEM, STEM_OF_WIDTH, teacher
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.checkpoints import load
from mmcomponents.component import WiringError
from mmcomponents.embedders import HolisticEmbedder, PatchHolisticEmbedder, TokenEmbedder
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.projectors import LlavaProjector
from mmcomponents.testing import small_model
from mmcomponents.testing.case import in_double
from mmcomponents.testing.contracts.decode_equals_forward import in_calls
from mmcomponents.training import SlotOptions
from mmcomponents.vision import PatchStem

FORMS: dict[str, dict[str, Any]] = {
    "pre": {"vision": STEM, "projector": LlavaProjector, "embedder": HOLISTIC},
    "post": {"vision": STEM_OF_WIDTH, "projector": None, "embedder": PATCH_HOLISTIC},
}
POSITIONS = {"V2PE": partial(V2PE, delta=0.25), "plain V2PE": partial(V2PE, delta=1 / 16, realign=False), "RoPE": RoPE}


def model_of(form: str, **changes: Any) -> MultimodalModel:
    return small_model(**FORMS[form] | changes)


def embeddings(model: MultimodalModel, batch: Any) -> torch.Tensor:
    return model(batch, Runtime(needs=("embeds",))).embeds


@pytest.mark.parametrize("form", FORMS)
def test_without_layers_it_is_a_token_embedder_bit_for_bit(form: str) -> None:
    batch = tiny.pack([("t", 3), ("i", 2), ("t", 4)], [("i", 1)], [("t", 5)])
    shallow = model_of(form, embedder=partial(FORMS[form]["embedder"], num_layers=0), position=None, scale=1.0)
    plain = small_model(vision=FORMS[form]["vision"], projector=LlavaProjector, position=None, scale=1.0)
    contraction = plain.projector if form == "pre" else shallow.embedder
    for name in ("fc1", "fc2"):
        plain.projector.get_submodule(name).load_state_dict(contraction.get_submodule(name).state_dict())
    with torch.no_grad():
        assert torch.equal(tiny.logits(shallow, batch), tiny.logits(plain, batch))
        deep = model_of(form, position=RoPE, scale=1.0)
        assert not torch.equal(embeddings(deep, batch), embeddings(plain, batch))


@pytest.mark.parametrize("form", FORMS)
def test_text_passes_through_layers_that_add_nothing(form: str) -> None:
    model, batch = model_of(form), tiny.pack([("t", 3), ("i", 1), ("t", 4)])
    with torch.no_grad():
        for name, value in model.embedder.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.zero_()
        text = batch.visual_index < 0
        expected = model.embedder.embedding_weight()[batch.input_ids[text]]
        assert torch.equal(embeddings(model, batch)[text], expected)


@pytest.mark.parametrize("form", FORMS)
def test_text_before_an_image_is_unaffected_by_it_and_text_after_it_is(form: str) -> None:
    model, batch = model_of(form), tiny.pack([("t", 3), ("i", 1), ("t", 2)])
    with torch.no_grad():
        before = embeddings(model, batch)
        batch.images.pixels += 1.0
        after = embeddings(model, batch)
    assert torch.equal(before[:3], after[:3])
    assert ((before - after).abs().amax(1) > 1e-4)[3:].all()


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("form", FORMS)
def test_both_caches_equal_the_forward_pass_wherever_a_prefill_is_cut(form: str, position: str) -> None:
    """Two prompts, whose images have two tiles and one; every cut, then the rest token by token."""
    model = model_of(form, position=POSITIONS[position]).double()
    batch = in_double(tiny.pack([("t", 2), ("i", 2), ("t", 3)], [("t", 1), ("i", 1), ("t", 8)]))
    inside = {3, 4, 5, 7, 8, 9} if form == "post" else set[int]()  # a tile has four tokens
    with torch.no_grad():
        expected = tiny.logits(model, batch)
        for cut in range(1, 13):
            calls = [[cut, 1], [10 - cut, 9], *[[1, 1]] * 3]
            if cut > 9:
                calls = [[cut, 10], *[[1, 1]] * (13 - cut), *[[0, 1]] * (cut - 10)]
            if cut in inside:
                with pytest.raises(ValueError, match=r"whole tiles of 4 visual tokens.* cannot be cut"):
                    in_calls(model, batch, calls)
                continue
            (found,) = in_calls(model, batch, calls).values()
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_tiles_of_another_size_are_refused() -> None:
    model = model_of("post")
    with pytest.raises(ValueError, match=r"Embedder takes tiles of 16 x 16 pixels, and these have 16 x 32"):
        model.logits(torch.tensor([1, *[tiny.IMAGE_TOKEN] * 8, 2]), torch.randn(1, 3, 16, 32))


def test_a_tile_that_is_cut_is_refused_with_its_numbers() -> None:
    model, batch = model_of("post"), tiny.pack([("t", 2), ("i", 2), ("t", 3)])
    message = (
        r"^PatchHolisticEmbedder takes whole tiles of 4 visual tokens, and visual token 4 at position 6 of this call is"
    )
    with pytest.raises(ValueError, match=message) as caught:
        in_calls(model, batch, [[8], [5]])
    assert "\n" not in str(caught.value)


def test_the_layers_see_all_patches_and_the_backbone_the_tokens_of_the_pack() -> None:
    """Two images and a text: 14 text tokens, three tiles of 16 patches and 4 visual tokens."""
    model, batch = model_of("post"), tiny.pack([("t", 3), ("i", 2), ("t", 4)], [("i", 1), ("t", 2)], [("t", 5)])
    seen: list[int] = []
    model.embedder.layers[0].register_forward_hook(lambda _, inputs, out: seen.append(out.shape[0]))
    model.backbone.layers[0].register_forward_hook(lambda _, inputs, out: seen.append(out.shape[0]))
    model(batch)
    assert seen == [14 + 3 * 16, 14 + 3 * 4]
    layout, first, source, patch = model.embedder._expanded(batch)
    assert layout.cu_seqlens.tolist() == [0, 7 + 32, 7 + 32 + 18, 7 + 32 + 18 + 5]
    assert layout.max_seqlen == 39
    assert torch.equal(source[first], torch.arange(batch.num_tokens))
    assert patch[patch >= 0].tolist() == list(range(48))
    assert torch.equal(patch[first] >= 0, batch.visual_index >= 0)
    assert torch.equal(layout.token_type, batch.layout.token_type[source])


def test_patches_are_in_row_major_order_within_a_tile() -> None:
    """A merger's blocks of the map 0 to 15 of two tiles come back as the map."""
    embedder = PATCH_HOLISTIC(tiny.VOCAB, 1, num_layers=0, num_heads=1, num_kv_heads=1)
    numbers = FeatureMap(torch.arange(32.0).view(2, 16, 1), (4, 4))
    merged = PixelUnshuffle(1)(VisualFeatures([numbers])).primary.tokens
    assert torch.equal(embedder._patches(merged.flatten(0, 1)).flatten(), torch.arange(32.0))


@pytest.mark.parametrize("form", FORMS)
def test_a_fork_and_a_selection_of_a_cache_continue_like_it(form: str) -> None:
    model = model_of(form)
    batch = tiny.pack([("t", 2), ("i", 1), ("t", 2)], [("t", 7)])
    more = tiny.pack([("t", 1)], [("t", 1)], seed=3)
    with torch.no_grad():
        cache = KVCache()
        visual = model.project(model.encode(batch.images))
        model(batch, Runtime(cache, visual))
        ticks = model.position.ticks(batch.layout)[batch.layout.cu_seqlens[1:].long() - 1]
        more.layout.last_ticks = ticks
        fork = cache.fork()
        expected = model(more, Runtime(cache)).hidden
        assert torch.equal(model(more, Runtime(fork.fork())).hidden, expected)
        fork.select([1, 0])
        turned = tiny.pack([("t", 1)], [("t", 1)], seed=3)
        turned.input_ids, turned.layout.last_ticks = more.input_ids.flip(0), ticks.flip(0)
        torch.testing.assert_close(model(turned, Runtime(fork)).hidden, expected.flip(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_alignment_trains_the_embedding_and_leaves_the_language_model_alone(form: str) -> None:
    packs = [pack for rows in micro_batches(3, 1, 1) for row in rows for pack in row]
    frozen = {name: SlotOptions(trainable=False) for name in ("backbone", "heads")}
    parts = FORMS[form] | {"slots": frozen}
    task = make_task(**parts)
    task.configure_model()
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    found = train(packs * 4, 1, parts)
    assert found["losses"][-1] < found["losses"][0]
    for name, value in found["weights"].items():
        name = name.removeprefix("model.")
        assert torch.equal(value, start[name]) == name.startswith(("backbone.", "heads.", "vision.class_")), name


def test_the_embedding_weight_of_a_language_model_is_a_start() -> None:
    source = load(teacher())
    task = make_task(**FORMS["pre"], weights={name: teacher() for name in ("embedder", "backbone", "heads")})
    task.configure_model()
    assert torch.equal(task.model.embedder.embedding_weight(), source.embedder.embedding_weight())
    name = "layers.0.mlp.down_proj.weight"
    assert torch.equal(task.model.backbone.get_parameter(name), source.backbone.get_parameter(name))


def test_what_does_not_fit_is_refused_in_one_line_with_both_parts_and_numbers() -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        (
            "post",
            {"projector": lambda width, out: LlavaProjector(width, 32)},
            "LlavaProjector gives tokens of width 32 and PatchHolisticEmbedder takes 128",
        ),
        ("post", {"vision": STEM}, "PixelUnshuffle gives tokens of width 96 and PatchHolisticEmbedder takes 128"),
        (
            "post",
            {"embedder": partial(PATCH_HOLISTIC, grid=(8, 8))},
            "PatchStem gives 4 x 4 patches of a tile and PatchHolisticEmbedder takes 8 x 8",
        ),
        (
            "post",
            {"merger": partial(PixelUnshuffle, rows=1, columns=4)},
            "PixelUnshuffle joins 1 x 4 patches in the order v2 and PatchHolisticEmbedder takes 2 x 2 in the order v2",
        ),
        (
            "post",
            {"merger": partial(PixelUnshuffle, order="v1")},
            "PixelUnshuffle joins 2 x 2 patches in the order v1 and",
        ),
        (
            "post",
            {"merger": None, "vision": partial(PatchStem, 4 * tiny.WIDTH, tiny.TILE, tiny.PATCH)},
            "PatchStem gives 16 visual tokens of a tile and PatchHolisticEmbedder takes 4",
        ),
        (
            "pre",
            {"embedder": partial(HOLISTIC, head_dim=16)},
            "V2PE is made for heads of 8 and HolisticEmbedder has 16",
        ),
        ("pre", {"position": None}, "HolisticEmbedder has 2 layers with positions and the position slot is empty"),
    ]
    for form, changes, message in wrong:
        with torch.device("meta"), pytest.raises(WiringError) as caught:
            model_of(form, **changes)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be from 1 to 1,000, got -1"):
        HolisticEmbedder(8, 32, -1, 4, 48)
    with pytest.raises(ValueError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        HolisticEmbedder(8, 32, 1, 4, 48, num_kv_heads=3)
    with pytest.raises(ValueError, match="a grid of 5 x 4 patches is not a multiple of 2 x 2 blocks"):
        PatchHolisticEmbedder(8, 32, 1, 4, 48, grid=(5, 4))
    with pytest.raises(ValueError, match="HolisticEmbedder has layers and no positions: call bind"):
        HolisticEmbedder(tiny.VOCAB, 32, 1, 4, 48)(tiny.pack([("t", 3)]), None)
    assert isinstance(HolisticEmbedder(tiny.VOCAB, 32, 0, 4, 48), TokenEmbedder)
