"""How long a sample becomes: tokens and tiles under the largest settings that a run will use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmcomponents.data.annotations.refused import Refused
from mmcomponents.data.placeholders import FRAME_TEMPLATE
from mmcomponents.data.rendering import render_record
from mmcomponents.data.tiling import Tiling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Budget:
    """The settings that decide how long a sample is.

    Attributes:
        max_tokens: Most tokens of a sample, the rows of its images included; of a pair, both segments together.
        tokens_per_tile: Rows that a tile becomes.
        tiling: How images are cut.
        max_frames: Frames that a video becomes at most, one tile each.
        frame_template: Text of one frame.
    """

    max_tokens: int = 16_384
    tokens_per_tile: int = 256
    tiling: Tiling = field(default_factory=Tiling)
    max_frames: int = 32
    frame_template: str = FRAME_TEMPLATE

    def with_tiles(self, max_tiles: int | None) -> Budget:
        """The budget of a data set that has its own limit of tiles."""
        return self if max_tiles is None else replace(self, tiling=replace(self.tiling, max_tiles=max_tiles))

    def measure(
        self,
        record: Mapping[str, Any],
        sizes: Sequence[tuple[int, int]],
        videos: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> tuple[int, int]:
        """Returns (tokens, tiles) of a sample.

        Args:
            record: The sample, its placeholders in place.
            sizes: Width and height of each image.
            videos: Number of videos.
            tokenizer: The tokenizer of the runs.

        Raises:
            Refused: It has more tokens than it may have.
            SampleError: It cannot be rendered.
        """
        tiling = self.tiling.for_images(len(sizes))
        images = [tiling.count(width, height) for width, height in sizes]
        chats, tiles = render_record(
            record, images, [[1] * self.max_frames] * videos, self._rows, tokenizer, frame_template=self.frame_template
        )
        tokens = sum(len(chat.input_ids) for chat in chats)
        if tokens > self.max_tokens:
            raise Refused("over_budget", f"{tokens} tokens, more than {self.max_tokens}")
        return tokens, sum(tiles)

    def _rows(self, tiles: Sequence[int]) -> list[int]:
        return [count * self.tokens_per_tile for count in tiles]
