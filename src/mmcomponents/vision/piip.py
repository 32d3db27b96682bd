"""Parameter-inverted image pyramid (PIIP, arXiv 2406.04330, section 3.1; for language models 2501.07783).

tile ─┬─ small image ──► large network ── blocks ─┐   ┌─ blocks ─┐
│                                      Interaction     Interaction ──► a map of each branch
└─ large image ──► small network ── blocks ─┘   └─ blocks ─┘

Reference code: OpenGVLab/PIIP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mmcomponents.batch import FeatureMap, ImageBatch, PackedBatch, VisualFeatures
from mmcomponents.component import WiringError
from mmcomponents.limits import check_choices, check_sizes
from mmcomponents.nn.deformable_attention import init_deformable
from mmcomponents.vision.base import VisionEncoder
from mmcomponents.vision.block_encoder import BlockEncoder
from mmcomponents.vision.interaction import Injector, Interaction, Kind

Schedule = int | dict[str, list[int]]


class PIIP(VisionEncoder):
    """Encoders of different sizes that see the same tile at different resolutions and exchange features between blocks.

    All gates of the interactions are zero at the start: each branch then computes what it computes alone on the tile in
    its own resolution. With three or more branches, neighbours interact, the last two first.

    Args:
        branches: Factories by name, from the largest network with the smallest image to the smallest network with the
            largest image. The image size of each is that which it is built for; tiles have the largest.
        interactions: Number of interactions, which divides the number of blocks of each branch; or for each branch the
            number of blocks before each interaction.
        attention: "deformable" or "dense".
        num_heads: Number of heads of the interactions.
        num_points: Number of places that a head of deformable attention looks at.
        ratio: Width of the values of the interactions over that of their map.
        ffn_ratio: Inner width of the feed-forward blocks of the interactions over that of their map.
        drop_path: Probability that such a block is dropped for a tile in training.

    Raises:
        WiringError: There are fewer than two branches, one cannot run block by block or gives several maps, or the
            numbers of blocks do not fit the interactions.
    """

    def __init__(
        self,
        branches: dict[str, Callable[[], VisionEncoder]],
        interactions: Schedule = 12,
        attention: Kind = "deformable",
        num_heads: int = 16,
        num_points: int = 4,
        ratio: float = 0.5,
        ffn_ratio: float = 0.25,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        check_choices(attention=(attention, Kind))
        check_sizes(num_heads=num_heads, num_points=num_points)
        made = {name: _checked(name, make()) for name, make in branches.items()}
        if len(made) < 2:
            raise WiringError(f"PIIP needs at least two branches and has {len(made)}")
        self.branches = nn.ModuleDict(made)
        self.names = list(made)
        self.num_heads, self.num_points = num_heads, num_points
        self.schedule = _schedule(made, interactions)
        self.hidden_size = tuple(branch.block_width(branch.num_blocks) for branch in made.values())
        self.image_size = max(branch.image_size for branch in made.values())
        injector = partial(
            Injector,
            kind=attention,
            num_heads=num_heads,
            num_points=num_points,
            ratio=ratio,
            ffn_ratio=ffn_ratio,
            drop_path=drop_path,
        )
        steps = len(self.schedule[self.names[0]])
        ends = {name: list(accumulate(counts)) for name, counts in self.schedule.items()}
        self.interactions = nn.ModuleList(
            nn.ModuleList(
                Interaction(made[one].block_width(ends[one][step]), made[two].block_width(ends[two][step]), injector)
                for one, two in self._pairs
            )
            for step in range(steps)
        )
        kinds = dict.fromkeys(kind for branch in made.values() for kind in branch.shard_units)
        self.shard_units = (*kinds, Interaction)
        first = made[self.names[0]]
        self.starts_from = (type(first).__name__, *first.starts_from)
        self.init_weights()

    @property
    def _steps(self) -> list[nn.ModuleList]:
        """Interactions of all pairs, for each step."""
        return cast(list[nn.ModuleList], list(self.interactions))

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        """Neighbouring branches, in the order of their numbers."""
        return list(zip(self.names, self.names[1:], strict=False))

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills the gates with zeros, places and weights as deformable attention does, and branches as they do."""
        if not name.startswith("interactions."):
            super().init_parameter(name, value, generator)
        elif ".gate_" in name:
            value.zero_()
        elif not init_deformable(name, value, self.num_heads, self.num_points):
            super().init_parameter(name, value, generator)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """Returns the standard deviations of the branches; `init_parameter` fills the interactions."""
        return None if name.startswith("interactions.") else super().init_std(name, shape)

    def source_name(self, name: str) -> str:
        """Names the parameters of the first branch as its class does alone: the pyramid starts from such a folder."""
        prefix = f"branches.{self.names[0]}."
        if name.startswith(prefix):
            return self._branch(self.names[0]).source_name(name.removeprefix(prefix))
        return super().source_name(name)

    def source_names(self, name: str) -> tuple[str, ...]:
        """Adds the name in the class of the first branch, which may itself start from another class."""
        prefix = f"branches.{self.names[0]}."
        own = (name.removeprefix(prefix),) if name.startswith(prefix) else ()
        return tuple(dict.fromkeys((*own, self.source_name(name))))

    def grid(self, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns rows and columns of the map of the last branch, which is the primary one."""
        return self.grids(pixel_hw)[-1]

    def grids(self, pixel_hw: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns rows and columns of the map of each branch.

        Raises:
            ValueError: A branch does not support its part of this size.
        """
        found = []
        for name in self.names:
            branch = self._branch(name)
            found.append(branch.block_grid(branch.num_blocks, self.pixels_for(name, pixel_hw)))
        return found

    def pixels_for(self, name: str, pixel_hw: tuple[int, int]) -> tuple[int, int]:
        """Returns height and width in pixels of what a branch sees of a tile.

        Raises:
            ValueError: It is no whole number of pixels.
        """
        size = self._branch(name).image_size
        height, width = (side * size / self.image_size for side in pixel_hw)
        if height % 1 or width % 1:
            raise ValueError(
                f"a tile of {pixel_hw[0]} x {pixel_hw[1]} pixels has no whole size at {size} / {self.image_size} of it,"
                f" which the branch {name} sees"
            )
        return int(height), int(width)

    def forward(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles `[N, 3, H, W]` as a map of each branch, in the order of the branches."""
        pixels = self.pixels_of(images)
        states = {name: self._branch(name).embed(self._resized(name, pixels)) for name in self.names}
        done = dict.fromkeys(self.names, 0)
        for step, interactions in enumerate(self._steps):
            for name in self.names:
                for _ in range(self.schedule[name][step]):
                    states[name] = self._branch(name).run_block(done[name], *states[name])
                    done[name] += 1
            for interaction, (one, two) in reversed(list(zip(interactions, self._pairs, strict=True))):
                states[one], states[two] = self._exchanged(interaction, one, states[one], two, states[two])
        maps = []
        for name, (x, hw) in states.items():
            branch = self._branch(name)
            maps.append(FeatureMap(branch.finish(x)[:, branch.num_prefix :], hw, name))
        return VisualFeatures(maps, images.context, images.valid_hw)

    def flops(self, batch: PackedBatch) -> float:
        """Counts the branches on their sizes, and the linear maps and samples of the interactions."""
        images = batch.images
        if images is None:
            return 0.0
        total, tiles = 0.0, images.num_tiles
        for name in self.names:
            size = self.pixels_for(name, images.pixel_hw)
            seen = replace(images, pixels=torch.empty(tiles, 3, *size, device="meta"))
            total += self._branch(name).flops(replace(batch, images=seen))
        ends = {name: list(accumulate(counts)) for name, counts in self.schedule.items()}
        for step, interactions in enumerate(self._steps):
            for interaction, (one, two) in zip(interactions, self._pairs, strict=True):
                grids = [
                    self._branch(n).block_grid(ends[n][step], self.pixels_for(n, images.pixel_hw)) for n in (one, two)
                ]
                total += tiles * cast(Interaction, interaction).flops(*grids)
        return total

    def _branch(self, name: str) -> BlockEncoder:
        branch = self.branches[name]
        assert isinstance(branch, BlockEncoder)
        return branch

    def _resized(self, name: str, pixels: Tensor) -> Tensor:
        size = self.pixels_for(name, (pixels.shape[-2], pixels.shape[-1]))
        if size == tuple(pixels.shape[-2:]):
            return pixels
        return interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False).to(pixels.dtype)

    def _exchanged(
        self,
        interaction: nn.Module,
        one: str,
        one_state: tuple[Tensor, tuple[int, int]],
        two: str,
        two_state: tuple[Tensor, tuple[int, int]],
    ) -> list[tuple[Tensor, tuple[int, int]]]:
        """Runs an interaction on the patches of two branches; the tokens before them stay as they are."""
        (x, x_hw), (y, y_hw) = one_state, two_state
        a, b = self._branch(one).num_prefix, self._branch(two).num_prefix
        new_x, new_y = interaction(x[:, a:], x_hw, y[:, b:], y_hw)
        return [(torch.cat((x[:, :a], new_x), dim=1), x_hw), (torch.cat((y[:, :b], new_y), dim=1), y_hw)]


def _checked(name: str, branch: VisionEncoder) -> BlockEncoder:
    kind = type(branch).__name__
    if not isinstance(branch, BlockEncoder) or not branch.has_blocks:
        raise WiringError(f"the branch {name} of PIIP, {kind}, cannot run block by block (BlockEncoder)")
    if not isinstance(branch.hidden_size, int):
        raise WiringError(f"the branch {name} of PIIP, {kind}, gives {len(branch.hidden_size)} maps; one is needed")
    return branch


def _schedule(branches: dict[str, BlockEncoder], interactions: Schedule) -> dict[str, list[int]]:
    """Returns the number of blocks of each branch before each interaction.

    Raises:
        WiringError: They do not cover the blocks of a branch exactly once, or branches have different numbers.
    """
    if isinstance(interactions, int):
        check_sizes(interactions=interactions)
        for name, branch in branches.items():
            if branch.num_blocks % interactions or branch.num_blocks < interactions:
                raise WiringError(
                    f"the branch {name} of PIIP ({type(branch).__name__}) has {branch.num_blocks} blocks, which"
                    f" {interactions} interactions do not divide: give the numbers of blocks of each branch"
                )
        return {name: [branch.num_blocks // interactions] * interactions for name, branch in branches.items()}
    if {*interactions} != {*branches}:
        raise WiringError(f"PIIP has the branches {', '.join(branches)}, and interactions of {', '.join(interactions)}")
    lengths = {name: len(counts) for name, counts in interactions.items()}
    if len({*lengths.values()}) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise WiringError(f"the branches of PIIP have different numbers of interactions: {shown}")
    for name, counts in interactions.items():
        number, kind = branches[name].num_blocks, type(branches[name]).__name__
        if sum(counts) != number or min(counts, default=0) < 1:
            raise WiringError(
                f"the branch {name} of PIIP ({kind}) has {number} blocks, and those before its interactions are"
                f" {counts}, in all {sum(counts)}"
            )
    return {name: list(interactions[name]) for name in branches}
