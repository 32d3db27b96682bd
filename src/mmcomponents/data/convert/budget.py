"""Limit on the tokens of a sample, under the largest settings that a run will use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmcomponents.data.chat.kinds import RecordKind, Sample, render
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.media.tiling import Tiling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Budget:
    """Settings that determine the length of a sample.

    Attributes:
        max_tokens: Largest number of tokens of a sample, with its visual tokens; of a pair, of both segments together.
        tokens_per_tile: Visual tokens per tile.
        tiling: Tiling of images.
        max_frames: Largest number of frames of a video, one tile each.
        frame_template: Text of one frame.
        whole_images: Whether each image is one tile of any size, as detectors take them.
    """

    max_tokens: int = 16_384
    tokens_per_tile: int = 256
    tiling: Tiling = field(default_factory=Tiling)
    max_frames: int = 32
    frame_template: str = FRAME_TEMPLATE
    whole_images: bool = False

    @property
    def tile(self) -> tuple[int, int] | None:
        """(tile_size, tokens_per_tile) that runs must have; None: any."""
        return None if self.whole_images else (self.tiling.tile_size, self.tokens_per_tile)

    def with_tiles(self, max_tiles: int | None) -> Budget:
        """Returns the budget of a data set with its own limit of tiles."""
        return self if max_tiles is None else replace(self, tiling=replace(self.tiling, max_tiles=max_tiles))

    def measure(
        self,
        sample: Sample,
        kind: RecordKind,
        sizes: Sequence[tuple[int, int]],
        videos: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> tuple[int, int]:
        """Returns (tokens, tiles) of a sample.

        Args:
            sample: The sample, with placeholders, without its images and videos.
            kind: Record kind that matches the sample.
            sizes: Width and height of each image.
            videos: Number of videos.
            tokenizer: The tokenizer of the runs.

        Raises:
            Refused: The sample has more tokens than allowed.
            SampleError: The sample cannot be rendered.
        """
        tiling = self.tiling.for_images(len(sizes))
        images = [TiledImage.of_tiles(1 if self.whole_images else tiling.count(*size), size) for size in sizes]
        films = [[TiledImage.of_tiles(1) for _ in range(self.max_frames)] for _ in range(videos)]
        renderer = SampleRenderer(tokenizer, self.tokens_per_tile, frame_template=self.frame_template)
        segments = render(kind, replace(sample, images=images, videos=films), renderer)
        tokens = sum(len(segment.input_ids) for segment in segments)
        if tokens > self.max_tokens:
            raise Refused("over_budget", f"{tokens} tokens, more than {self.max_tokens}")
        shown = {id(image): image for segment in segments for image in segment.images}
        return tokens, sum(image.num_tiles for image in shown.values())
