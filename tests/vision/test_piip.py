"""PIIP: branches alone at the start, exchange, order of updates, sizes, weights of the branches, what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import interpolate

import tiny
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import load_initial
from mmcomponents.cli.main import main
from mmcomponents.component import WiringError
from mmcomponents.compose import Factories
from mmcomponents.fusers import GatedMerge
from mmcomponents.nn.nf4_linear import linear_weights
from mmcomponents.positions import V2PE
from mmcomponents.projectors import TwoMap
from mmcomponents.testing import small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.vision import PIIP, InternViT, TransformersVision
from mmcomponents.vision.block_encoder import BlockEncoder

CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 56, "patch_size": 7,
}  # fmt: skip


def branch(width: int, layers: int, side: int, **changes: Any) -> partial[InternViT]:
    sizes = {"hidden_size": width, "num_layers": layers, "num_heads": 2, "intermediate_size": 16, "image_size": side}
    return partial(InternViT, **(sizes | {"patch_size": 7} | changes))


DINO = {**CLIP, "model_type": "dinov3_vit", "hidden_size": 16}
TWO: dict[str, Any] = {"large": branch(24, 4, 28), "small": branch(12, 2, 56)}
THREE: dict[str, Any] = {"large": branch(24, 2, 28), "middle": branch(16, 2, 42), "small": branch(12, 2, 56)}


def pyramid(branches: dict[str, Any] = TWO, interactions: Any = 2, **changes: Any) -> PIIP:
    made = PIIP(branches, interactions, num_heads=2, num_points=2, **changes)
    made.init_weights(3)
    return made.eval()


def images(side: int = 56) -> ImageBatch:
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ImageBatch(pixels, torch.zeros(2, dtype=torch.long))


def open_gates(made: PIIP, names: str = "gate_") -> None:
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if names in name:
                parameter.fill_(1.0)


@torch.no_grad()
def maps(made: PIIP, batch: ImageBatch) -> list[Tensor]:
    return [found.tokens for found in made(batch).maps]


@pytest.mark.parametrize("attention", ["deformable", "dense"])
@pytest.mark.parametrize("branches", [TWO, THREE, {**TWO, "small": partial(TransformersVision, CLIP)}])
def test_each_branch_starts_as_it_is_alone(branches: dict[str, Any], attention: Any) -> None:
    made, batch = pyramid(branches, attention=attention), images()
    found = made(batch).maps
    for (name, own), tokens in zip(made.branches.items(), found, strict=True):
        side = own.image_size
        pixels = interpolate(batch.pixels, size=(side, side), mode="bilinear") if side < 56 else batch.pixels
        alone = own(ImageBatch(pixels, batch.tile_image)).primary
        assert torch.equal(tokens.tokens, alone.tokens)
        assert (tokens.hw, tokens.name) == (alone.hw, name)
    assert made.grid((56, 56)) == found[-1].hw == (8, 8)
    assert made.hidden_size == tuple(tokens.tokens.shape[-1] for tokens in found)


def test_details_that_only_the_large_image_shows_reach_the_large_network() -> None:
    made, batch = pyramid(), images()
    wave = torch.ones(56)
    wave[::2] = -1  # an average over two pixels, as the smaller image has, removes it
    changed = ImageBatch(batch.pixels + wave[:, None] * wave, batch.tile_image)
    closed = maps(made, changed)[0] - maps(made, batch)[0]
    assert closed.abs().max() < 1e-4
    open_gates(made)
    opened = maps(made, changed)[0] - maps(made, batch)[0]
    assert opened.abs().max() > 1e-2


def test_both_directions_read_what_was_there_before() -> None:
    made = pyramid()
    open_gates(made)
    (interaction,) = made.interactions[0]
    one, two = torch.randn(2, 16, 24), torch.randn(2, 64, 12)
    with torch.no_grad():
        new_one, new_two = interaction(one, (4, 4), two, (8, 8))
        again_two = interaction.inject_two(two, (8, 8), interaction.to_two(one), (4, 4))
        again_one = interaction.inject_one(one, (4, 4), interaction.to_one(two), (8, 8))
    assert torch.equal(new_one, again_one)
    assert torch.equal(new_two, again_two)


def test_of_three_branches_the_upper_pair_is_first() -> None:
    made, order = pyramid(THREE, 1), []
    for pair, interaction in zip(("large-middle", "middle-small"), made.interactions[0], strict=True):
        interaction.register_forward_hook(lambda *_, pair=pair: order.append(pair))
    open_gates(made)
    maps(made, images())
    assert order == ["middle-small", "large-middle"]


@pytest.mark.parametrize("interactions", [{"large": [3, 1], "small": [1, 1]}, 2, 1])
def test_blocks_run_between_the_interactions(interactions: Any) -> None:
    made, seen = pyramid(interactions=interactions), []
    for name, own in made.branches.items():
        for number, block in enumerate(own.blocks):
            block.register_forward_hook(lambda *_, what=(name, number): seen.append(what))
    for step, pair in enumerate(made.interactions):
        pair[0].register_forward_hook(lambda *_, step=step: seen.append(step))
    maps(made, images())
    steps = [seen.index(step) for step in range(len(made.interactions))]
    done = [
        {name: sum(what[0] == name for what in seen[:at] if isinstance(what, tuple)) for name in TWO} for at in steps
    ]
    wanted = {1: [(4, 2)], 2: [(2, 1), (4, 2)]}.get(
        interactions if isinstance(interactions, int) else 0, [(3, 1), (4, 2)]
    )
    assert [(found["large"], found["small"]) for found in done] == wanted


def test_sizes_of_tiles() -> None:
    made = pyramid()
    assert made.grids((56, 112)) == [(4, 8), (8, 16)]
    with pytest.raises(ValueError, match="a tile of 57 x 56 pixels has no whole size at 28 / 56 of it"):
        made.grids((57, 56))
    found = made(ImageBatch(torch.randn(1, 3, 56, 112), torch.zeros(1, dtype=torch.long)))
    assert [m.hw for m in found.maps] == [(4, 8), (8, 16)]


def test_inverted_costs_less_than_the_large_network_on_the_large_image() -> None:
    sizes = {"num_heads": 4, "intermediate_size": 512, "patch_size": 7}
    with torch.device("meta"):
        inverted = PIIP({"large": branch(128, 4, 28, **sizes), "small": branch(32, 4, 56, **sizes)}, 2, num_heads=4)
        direct = PIIP({"small": branch(32, 4, 28, **sizes), "large": branch(128, 4, 56, **sizes)}, 2, num_heads=4)
        alone = branch(128, 4, 56, **sizes)()
    batch = tiny.pack([("t", 2), ("i", 1)])
    batch.images = ImageBatch(torch.empty(1, 3, 56, 56, device="meta"), torch.zeros(1, dtype=torch.long))
    assert inverted.flops(batch) < alone.flops(batch) < direct.flops(batch)
    assert linear_weights(inverted) == linear_weights(direct)


def test_it_starts_from_a_folder_of_its_first_branch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = small_parts(vision=TWO["large"], position=V2PE)
    theirs = small_model(seed=9, **plain)
    folder = write_folder(Case("vision", None, plain, text_packs), theirs, tmp_path / "a")
    vision = partial(PIIP, TWO, 2, num_heads=2, num_points=2)
    parts = small_parts(vision=vision, fuser=GatedMerge, position=V2PE)
    model = small_model(seed=1, **parts)
    load_initial(model, folder)
    for name, value in theirs.vision.named_parameters():
        assert torch.equal(model.vision.branches["large"].get_parameter(name), value), name
    assert "vision takes" in caplog.text
    small = small_parts(vision=TWO["small"], position=V2PE)
    other = small_model(seed=4, **small)
    two = write_folder(Case("vision", None, small, text_packs), other, tmp_path / "b")
    load_initial(model, {"vision.branches.small": two})
    for name, value in other.vision.named_parameters():
        assert torch.equal(model.vision.branches["small"].get_parameter(name), value), name
    folder = write_folder(Case("vision", None, parts, text_packs), model, tmp_path / "c")
    again = small_model(seed=2, **parts)
    load_initial(again, folder)
    for name, value in model.named_parameters():
        assert torch.equal(again.get_parameter(name), value), name


def test_a_branch_starts_from_a_folder_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**CLIP))
    theirs.save_pretrained(tmp_path)
    branches = {**TWO, "small": partial(TransformersVision, CLIP)}
    model = small_model(vision=partial(PIIP, branches, 2, num_heads=2), fuser=GatedMerge)
    before = model.vision.branches["large"].class_embedding.detach().clone()
    load_initial(model, {"vision.branches.small": tmp_path})
    for name, value in model.vision.branches["small"].body.named_parameters():
        assert torch.equal(value, theirs.get_parameter(name)), name
    assert torch.equal(model.vision.branches["large"].class_embedding, before)


def test_it_is_drawn_as_its_first_branch_alone() -> None:
    one = small_model(vision=TWO["large"])
    two = small_model(vision=partial(PIIP, TWO, 2, num_heads=2, num_points=2), fuser=GatedMerge)
    for model in (one, two):
        model.init_weights(6)
    for name, value in one.vision.named_parameters():
        assert torch.equal(two.vision.branches["large"].get_parameter(name), value), name


@pytest.mark.parametrize(
    ("branches", "interactions", "said"),
    [
        ({"large": TWO["large"]}, 2, "PIIP needs at least two branches and has 1"),
        (TWO, 3, r"the branch large of PIIP \(InternViT\) has 4 blocks, which 3 interactions do not divide"),
        ({**TWO, "small": branch(12, 2, 56, levels=(0,))}, 2, "the branch small .* has 0 blocks, which 2 interactions"),
        (
            {**TWO, "small": partial(TransformersVision, {**CLIP, "model_type": "dinov3_vit", "hidden_size": 16})},
            2,
            "cannot run block by",
        ),
        (TWO, {"large": [2, 2]}, "PIIP has the branches large, small, and interactions of large"),
        (TWO, {"large": [2, 2], "small": [2]}, "different numbers of interactions: large 2, small 1"),
        (TWO, {"large": [2, 1], "small": [1, 1]}, r"large of PIIP \(InternViT\) has 4 blocks, and those .* in all 3"),
        ({**TWO, "small": branch(12, 2, 56, levels=(1, 2))}, 2, "the branch small of PIIP, InternViT, gives 2 maps"),
        (
            {**TWO, "small": tiny.backbone_factory()},
            2,
            "the branch small of PIIP, DecoderLM, cannot run block by block",
        ),
    ],
)
def test_branches_that_do_not_match_are_refused(branches: Any, interactions: Any, said: str) -> None:
    with pytest.raises(WiringError, match=said):
        PIIP(branches, interactions, num_heads=2)


def test_maps_and_what_takes_them() -> None:
    vision = partial(PIIP, TWO, 2, num_heads=2, num_points=2)
    model = Factories(**small_parts(vision=vision, merger=None, projector=partial(TwoMap, num_groups=4))).build(
        64, None
    )
    assert model.tokens_per_tile == 64
    model = Factories(**small_parts(vision=vision, fuser=GatedMerge)).build(64, None)
    assert model.tokens_per_tile == 4
    with pytest.raises(WiringError, match=r"PixelUnshuffle takes one feature map and is given 2.*PIIP gives maps"):
        Factories(**small_parts(vision=vision)).build(64, None)
    with pytest.raises(WiringError, match=r"GatedMerge merges several feature maps and is given one: 24 \(InternViT"):
        Factories(**small_parts(fuser=GatedMerge)).build(64, None)
    with pytest.raises(WiringError, match="GatedMerge divides the grid by 3, and the primary map is 8 x 8"):
        Factories(**small_parts(vision=vision, fuser=partial(GatedMerge, reduction=3))).build(64, None)
    with pytest.raises(
        WiringError, match=r"TwoMap projects several feature maps and is given one: 96 \(PixelUnshuffle"
    ):
        Factories(**small_parts(projector=TwoMap)).build(64, None)


class Wrapped(BlockEncoder):
    """InternViT in an attribute, with a gate."""

    starts_from = ("InternViT",)
    num_prefix = 1

    def __init__(self) -> None:
        super().__init__()
        self.body = TWO["large"]()
        self.hidden_size, self.image_size, self.num_blocks = 24, 28, 4
        self.gate = torch.nn.Parameter(torch.ones(24))
        self.init_weights()

    def source_name(self, name: str) -> str:
        return name.removeprefix("body.")

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        return self.body.grid(pixel_hw)

    def embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.body.embed(pixels)

    def run_block(self, index: int, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        return self.body.run_block(index, x, hw)

    def forward(self, images: ImageBatch) -> Any:
        return self.body(images)


@pytest.mark.parametrize("vision", [TWO["large"], Wrapped])
def test_it_starts_from_what_its_first_branch_starts_from(vision: Any, tmp_path: Path) -> None:
    plain = small_parts(vision=vision, position=V2PE)
    theirs = small_model(seed=9, **plain)
    folder = write_folder(Case("vision", None, plain, text_packs), theirs, tmp_path)
    branches = {"large": Wrapped, "small": TWO["small"]}
    model = small_model(vision=partial(PIIP, branches, 2, num_heads=2), fuser=GatedMerge, position=V2PE)
    load_initial(model, folder, trust_remote_code=True)
    body = theirs.vision.body if vision is Wrapped else theirs.vision
    for name, value in body.named_parameters():
        assert torch.equal(model.vision.branches["large"].body.get_parameter(name), value), name


@pytest.mark.parametrize("inner", [False, True])
def test_other_settings_of_a_branch_are_told(inner: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = small_parts(vision=TWO["large"], position=V2PE)
    folder = write_folder(Case("vision", None, plain, text_packs), small_model(**plain), tmp_path)
    branches = {**TWO, "large": branch(24, 4, 28, num_heads=3)}
    model = small_model(vision=partial(PIIP, branches, 2, num_heads=2), fuser=GatedMerge, position=V2PE)
    load_initial(model, {"vision.branches.large": folder} if inner else folder)
    assert "attn: num_heads is 3, was 2" in caplog.text


def test_a_first_branch_of_another_size_is_drawn_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = small_parts(vision=TWO["large"], position=V2PE)
    folder = write_folder(Case("vision", None, plain, text_packs), small_model(**plain), tmp_path)
    branches = {**TWO, "large": branch(16, 4, 28)}
    model = small_model(vision=partial(PIIP, branches, 2, num_heads=2), fuser=GatedMerge, position=V2PE)
    load_initial(model, folder)
    assert "vision has other sizes than in" in caplog.text


def test_a_recipe_gives_the_numbers_of_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    flag = ["plan", "--config", "piip/tiny", "--tokens", "64", "--json", "--model.vision.init_args.interactions"]
    assert main([*flag, '{"large": [1, 3], "small": [1, 1]}']) == 0
    assert main([*flag, '{"large": [1, 2], "small": [1, 1]}']) == 2
    assert "has 4 blocks, and those before its interactions are [1, 2]" in capsys.readouterr().err
