"""Weights that a constructor loads are neither drawn over nor lost on the meta device."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny
from contracts.pair import make_task, micro_batches, train
from mmcomponents.batch import FeatureMap, ImageBatch, VisualFeatures
from mmcomponents.brought_weights import built
from mmcomponents.compose import Factories
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import Ranks, small_parts
from mmcomponents.training import SlotOptions
from mmcomponents.vision import VisionEncoder


class Pretrained(VisionEncoder):
    """A CNN with the weights of a file and a new linear map.

    Args:
        file: File of the weights.
        how: "load", "assign", or "data" and "set", by writing or setting the data of the parameters.
        draws: When the constructor calls `init_weights`: "never", or "before" or "after" it loads.
    """

    def __init__(self, file: str, how: str = "load", draws: str = "never") -> None:
        super().__init__()
        self.hidden_size, self.image_size = 8, 16
        self.cnn = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8))
        self.new = nn.Linear(8, 8)
        self.gate = nn.Parameter(torch.empty(8))
        if draws == "before":
            self.init_weights()
        state = torch.load(file, weights_only=True)
        if how in ("data", "set"):
            for name, value in self.cnn.named_parameters():
                if how == "data":
                    value.data.copy_(state[name])
                else:
                    value.data = state[name]
            self.cnn[1].load_state_dict({k.removeprefix("1."): v for k, v in state.items() if k[0] == "1"})
        else:
            self.cnn.load_state_dict(state, assign=how == "assign")
        if draws == "after":
            self.init_weights()

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        return pixel_hw[0] // 8, pixel_hw[1] // 8

    def forward(self, images: ImageBatch) -> VisualFeatures:
        found = self.cnn(self.pixels_of(images))
        tokens = found.flatten(2).transpose(1, 2)
        return VisualFeatures([FeatureMap(self.gate * self.new(tokens), found.shape[-2:], "cnn")])


@pytest.fixture
def file(tmp_path: Path) -> str:
    torch.manual_seed(5)
    cnn = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8))
    cnn[1].running_mean.fill_(3.0)
    torch.save(cnn.state_dict(), tmp_path / "cnn.pt")
    return str(tmp_path / "cnn.pt")


def loaded(weights: dict[str, Tensor], file: str) -> bool:
    wanted = torch.load(file, weights_only=True)
    return all(torch.equal(weights[f"cnn.{name}"], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("how", "draws"),
    [(how, draws) for how in ("load", "data", "set") for draws in ("before", "after")]
    + [("load", "never"), ("assign", "before")],
)
def test_loaded_weights_are_kept_and_others_are_drawn(file: str, how: str, draws: str) -> None:
    found = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        task = make_task(vision=partial(Pretrained, file, how, draws), merger=None, seed=3)
        task.configure_model()
        part = task.model.vision  # type: ignore[union-attr]
        assert loaded(part.state_dict(), file)
        assert part.brought == {"cnn.0.weight", "cnn.0.bias", "cnn.1.weight", "cnn.1.bias"}
        found.append((part.new.weight.detach(), part.gate.detach()))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert torch.equal(found[0][1], torch.ones(8))


def test_parts_that_draw_all_their_weights_bring_none() -> None:
    model = Factories(**small_parts()).build(tiny.VOCAB, tiny.IMAGE_TOKEN)
    assert {part.brought for part in model.parts().values()} == {frozenset()}
    assert {part.again for part in model.parts().values()} == {None}


def test_what_is_written_after_the_draw_is_kept_and_other_values_are_drawn() -> None:
    class Own(LinearProjector):
        def __init__(self, in_features: int, out_features: int) -> None:
            super().__init__(in_features, out_features)
            nn.init.zeros_(self.linear.bias)
            self.more = nn.Linear(2, 2)
            self.unset = nn.Parameter(torch.empty(64))
            self.one = nn.Parameter(torch.ones(2))

        def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
            if name == "one":
                value.fill_(7.0)
            else:
                super().init_parameter(name, value, generator)

    part = built(Own, 2, 3)
    assert part.brought == {"linear.bias"}
    part.init_weights(0)
    assert torch.equal(part.one, torch.full((2,), 7.0))


def test_a_part_within_a_part_keeps_what_it_loads(file: str) -> None:
    class Outer(VisionEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden_size, self.image_size = 8, 16
            self.inner = Pretrained(file, draws="before")
            nn.init.constant_(self.inner.gate, 0.25)
            self.init_weights()

        def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
            return self.inner.grid(pixel_hw)

        def forward(self, images: ImageBatch) -> VisualFeatures:
            found: VisualFeatures = self.inner(images)
            return found

    part = built(Outer)
    part.init_weights(3)
    assert loaded(part.inner.state_dict(), file)
    assert torch.equal(part.inner.gate, torch.full((8,), 0.25))
    loads = {f"inner.cnn.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
    assert part.brought == {"inner.gate", *loads}


def as_rank(rank: int, file: str, strategy: str, ranks: int) -> dict[str, Tensor]:
    """Returns the weights after two steps with a frozen encoder."""
    slots = {"vision": SlotOptions(trainable=False)}
    task = {"vision": partial(Pretrained, file), "merger": None, "slots": slots, "seed": 3}
    packs = [ranked[rank] for batches in micro_batches(2, 2, 1) for ranked in batches]
    found: dict[str, Tensor] = train(packs, 1, task=task, strategy=strategy, devices=ranks)["weights"]
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_pretrained_frozen_part_stays_as_it_is_on_two_ranks(two_ranks: Ranks, file: str, strategy: str) -> None:
    first, second = two_ranks.run(as_rank, file, strategy, 2)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    vision = {name.removeprefix("vision."): value for name, value in first.items()}
    assert loaded(vision, file)
    single = as_rank(0, file, "auto", 1)
    assert torch.equal(vision["new.weight"], single["vision.new.weight"])


def test_a_part_of_the_meta_device_alone_has_no_values(file: str) -> None:
    """A model that is built for counting only is not constructed again."""
    with torch.device("meta"):
        model = Factories(**small_parts(vision=partial(Pretrained, file), merger=None)).build(tiny.VOCAB, 7)
    assert model.vision is not None
    assert all(p.is_meta for p in model.vision.parameters())
    assert "cnn.0.weight" in model.vision.brought
