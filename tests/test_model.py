import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mmcomponents.model
import tiny
from figures import GOLDEN
from mmcomponents.backbones import DecoderLM
from mmcomponents.batch import ImageBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.positions import RoPE
from mmcomponents.projectors import MLPProjector
from mmcomponents.vision import InternViT

TO_OURS = {
    "vision_model.embeddings.": "vision.",
    "vision_model.encoder.layers.": "vision.blocks.",
    "mlp1.0.": "projector.norm.",
    "mlp1.1.": "projector.fc1.",
    "mlp1.3.": "projector.fc2.",
    "language_model.model.embed_tokens.": "embedder.embedding.",
    "language_model.model.": "backbone.",
    "language_model.lm_head.": "heads.lm.",
}


@pytest.fixture(scope="module")
def official() -> MultimodalModel:
    """Returns the tiny official model of figure g."""
    model = MultimodalModel(
        vision=InternViT(32, 3, 4, 48, image_size=56, patch_size=14),
        merger=PixelUnshuffle(32),
        projector=MLPProjector(128, 40),
        embedder=TokenEmbedder(64, 40),
        position=RoPE(10),
        backbone=DecoderLM(40, 2, 4, 56, num_kv_heads=2),
        heads={"lm": LMHead(40, 64)},
        image_token_id=60,
    )
    state = {}
    for name, value in load_file(GOLDEN / "g_tiny_official" / "vit300m_like_v2.safetensors").items():
        for theirs, ours in TO_OURS.items():
            if name.startswith(theirs):
                state[ours + name.removeprefix(theirs)] = value
                break
    model.load_state_dict(state)
    return model.eval()


def test_the_official_model_gives_the_official_figures(official) -> None:
    io = load_file(GOLDEN / "g_tiny_official" / "vit300m_like_v2_io.safetensors")
    pixels = io["pixel_values"]
    with torch.no_grad():
        features = official.vision(ImageBatch(pixels, torch.zeros(3)))
        torch.testing.assert_close(features.primary.tokens, io["vision_last_hidden"][:, 1:], rtol=1e-5, atol=1e-5)
        projected = official.projector(official.merger(features))
        torch.testing.assert_close(projected, io["projected"], rtol=1e-5, atol=1e-5)
        # The first sequence has two tiles, the second one.
        found = torch.stack(
            [official.logits(ids, tiles) for ids, tiles in zip(io["input_ids"], pixels.split([2, 1]), strict=True)]
        )
    torch.testing.assert_close(found, io["logits"], rtol=1e-5, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), io["labels"][:, 1:].flatten())
    torch.testing.assert_close(loss, io["loss"][0], rtol=1e-5, atol=1e-5)


def test_the_composite_reads_on_one_screen() -> None:
    forward = inspect.getsource(MultimodalModel.forward).split('"""')[2]
    assert len(forward.splitlines()) <= 40
    assert len(Path(mmcomponents.model.__file__).read_text().splitlines()) <= 300


def test_logits_say_what_does_not_fit() -> None:
    model = tiny.model()
    ids = torch.tensor([1, 2, *[tiny.IMAGE_TOKEN] * tiny.VISUAL_TOKENS, 3])
    assert model.logits(ids, torch.randn(1, 3, 16, 16)).shape == (7, tiny.VOCAB)
    assert model.logits(ids[:2]).shape == (2, tiny.VOCAB)
    with pytest.raises(ValueError, match="points to 4 visual tokens and its images give 8"):
        model.logits(ids, torch.randn(2, 3, 16, 16))
    with pytest.raises(ValueError, match="points to 4 visual tokens and its images give 0"):
        model.logits(ids)
    with pytest.raises(ValueError, match=r"one sequence \[T\], got \[1, 7\]"):
        model.logits(ids[None])
    with pytest.raises(ValueError, match="2 tiles and the model has no vision encoder"):
        tiny.model(vision=None, merger=None, projector=None).logits(ids, torch.randn(2, 3, 16, 16))
    model.image_token_id = None
    with pytest.raises(ValueError, match="pixel_values need image_token_id"):
        model.logits(ids, torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"merger": PixelUnshuffle(20)}, "InternViT gives maps of width 24 and PixelUnshuffle takes 20"),
        ({"projector": MLPProjector(20, 32)}, "PixelUnshuffle gives maps of width 96 and MLPProjector takes 20"),
        ({"projector": MLPProjector(96, 20)}, "MLPProjector gives tokens of width 20 and DecoderLM takes 32"),
        ({"embedder": TokenEmbedder(64, 16)}, "TokenEmbedder gives width 16 and DecoderLM takes 32"),
        ({"position": RoPE(16)}, "RoPE is made for heads of 16 and DecoderLM has 8"),
        ({"heads": {"lm": LMHead(16, 64)}}, "DecoderLM gives hidden states of width 32 and LMHead takes 16"),
        ({"heads": {"lm": LMHead(32, 65, tied=True)}}, r"weight of \[65, 32\], the embedding weight is \[64, 32\]"),
        (
            {"merger": PixelUnshuffle(24, 3, 3), "projector": None},
            "map of 4 x 4 of a tile of 16 pixels, which PixelUnsh",
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_parts_that_do_not_fit_are_refused_with_both_numbers(parts, message) -> None:
    with pytest.raises(WiringError, match=message):
        tiny.model(**parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"merger": PixelUnshuffle(24)}, "the merger PixelUnshuffle has no input: the vision slot is empty"),
        ({"heads": {"lm": LMHead(32, 64)}}, "reads hidden states and the backbone slot is empty"),
    ],
)
def test_a_part_without_its_input_is_refused(parts, message) -> None:
    with pytest.raises(WiringError, match=message):
        MultimodalModel(**parts)


def test_former_names_of_the_contracts_are_refused() -> None:
    projector = MLPProjector(96, 32)
    projector.needs_word_table = True
    with pytest.raises(WiringError, match="MLPProjector has needs_word_table; use the name needs_embedding_w"):
        tiny.model(projector=projector)


def test_several_maps_need_a_part_that_takes_them() -> None:
    with pytest.raises(WiringError, match="takes one feature map and is given 2"):
        PixelUnshuffle(tiny.vision(levels=(1, 2)).hidden_size)


def test_a_tied_head_shares_the_embedding_weight() -> None:
    model = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    assert model.heads["lm"].weight is model.embedder.embedding_weight()
    model.init_weights(3)
    assert model.heads["lm"].weight is model.embedder.embedding_weight()


def test_slots_may_be_empty() -> None:
    batch = tiny.pack([("t", 3), ("i", 1)])
    seeing = tiny.model(embedder=None, backbone=None, position=None, projector=None, heads={})
    state = seeing(batch)
    assert state.hidden is None
    assert state.visual_tokens.shape == (tiny.VISUAL_TOKENS, 4 * tiny.VISION)
    reading = tiny.model(vision=None, merger=None, projector=None)
    assert reading(tiny.pack([("t", 3)])).hidden.shape == (3, tiny.WIDTH)


def test_images_that_no_position_points_to_are_encoded_if_the_grids_say_so() -> None:
    """Features of such images are for heads that read maps, beside a language model."""
    model = tiny.model()
    pack = tiny.pack([("i", 1), ("t", 3)], [("i", 1), ("t", 2)])
    second = pack.visual_index >= tiny.VISUAL_TOKENS
    types = pack.layout.token_type.masked_fill(second, int(TokenType.TEXT))
    index = pack.visual_index.masked_fill(second, -1)
    grid = torch.tensor([[1, 2, tiny.VISUAL_TOKENS // 2]] * 2)
    unplaced = replace(pack, visual_index=index, layout=replace(pack.layout, token_type=types, grid=grid))
    state = model(unplaced)
    assert state.visual_tokens.shape[0] == 2 * tiny.VISUAL_TOKENS
    fewer = replace(unplaced, layout=replace(unplaced.layout, grid=grid[:1]))
    with pytest.raises(WiringError, match=f"points to {tiny.VISUAL_TOKENS} visual tokens"):
        model(fewer)
