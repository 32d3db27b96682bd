"""The composite: parts in, one model out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone
from mmcomponents.batch import ImageBatch, ModelState, PackedBatch, Runtime, VisualFeatures
from mmcomponents.component import Component
from mmcomponents.embedders.base import Embedder
from mmcomponents.fusers.base import Fuser
from mmcomponents.heads.base import Head
from mmcomponents.mergers.base import Merger
from mmcomponents.positions.base import Position
from mmcomponents.projectors.base import Projector
from mmcomponents.sequence import one_sequence
from mmcomponents.vision.base import VisionEncoder
from mmcomponents.wiring import check_visual_rows, check_wiring

Read = Callable[[nn.ModuleDict, ModelState], Any]
"""What an objective or a sampler does with the heads, inside the model's forward."""


class MultimodalModel(LightningModule):
    """Walks from tiles and tokens to hidden states, once, in one order; any slot may be empty.

    Args:
        vision: Tiles to feature maps.
        fuser: Maps to maps.
        merger: A map to fewer, wider tokens.
        projector: Tokens to the width of the backbone.
        embedder: The pack to the backbone's input.
        position: The layout to rotary tables.
        backbone: The sequence to hidden states.
        heads: What reads the state, by name.
        image_token_id: Id of the placeholder of a visual token, which `logits` needs.

    Raises:
        WiringError: Two parts do not fit.
    """

    def __init__(
        self,
        *,
        vision: VisionEncoder | None = None,
        fuser: Fuser | None = None,
        merger: Merger | None = None,
        projector: Projector | None = None,
        embedder: Embedder | None = None,
        position: Position | None = None,
        backbone: Backbone | None = None,
        heads: Mapping[str, Head] | None = None,
        image_token_id: int | None = None,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.fuser = fuser
        self.merger = merger
        self.projector = projector
        self.embedder = embedder
        self.position = position
        self.backbone = backbone
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.image_token_id = image_token_id
        check_wiring(self)
        self.tie_weights()

    def forward(self, batch: PackedBatch, runtime: Runtime | None = None, read: Read | None = None) -> Any:
        """Runs the model over a pack.

        Heads are used through `read` alone: sharded weights are whole only while this method runs.

        Args:
            batch: The pack.
            runtime: A cache, or rows that were encoded before.
            read: Called with the heads and the state; what it returns is returned.

        Returns:
            What `read` makes of the state; without it, the `ModelState`.

        Raises:
            ValueError: The pack points to more or fewer visual rows than there are.
        """
        runtime = runtime or Runtime()
        state = ModelState(rows=runtime.visual_rows)
        if runtime.cache is not None:
            runtime.cache.begin(batch.layout)
        images = batch.images or (self._blank_tile() if self._every_part_must_run(runtime) else None)
        if images is not None and state.rows is None:
            state.visual = self.encode(images)
            state.rows = self.project(state.visual)
        check_visual_rows(batch, None if batch.images is None and runtime.visual_rows is None else state.rows)
        if self.embedder is not None:
            state.embeds = self.embedder(batch, state.rows, runtime)
        if self.backbone is not None:
            rotary = self.position.rotary(batch.layout) if self.position is not None else None
            state.hidden = self.backbone(state.embeds, batch.layout, rotary, runtime.cache)
        if runtime.cache is not None:
            runtime.cache.commit()
        return read(self.heads, state) if read is not None else state

    def encode(self, images: ImageBatch) -> VisualFeatures:
        """Tiles to the visual tokens that the projector takes."""
        if self.vision is None:
            raise ValueError(f"the pack has {images.pixels.shape[0]} tiles and the model has no vision encoder")
        features: VisualFeatures = self.vision(images)
        for part in (self.fuser, self.merger):
            features = features if part is None else part(features)
        return features

    def project(self, features: VisualFeatures) -> Tensor:
        """Visual tokens to the visual table `[R, d]`, tile after tile."""
        if self.projector is None:
            return features.primary.tokens.flatten(0, 1)
        table = self.embedder.word_table() if self.embedder is not None and self.projector.needs_word_table else None
        rows: Tensor = self.projector(features, table)
        return rows.flatten(0, 1)

    def logits(self, input_ids: Tensor, pixel_values: Tensor | None = None, head: str = "lm") -> Tensor:
        """Logits of one sequence, from plain tensors.

        Args:
            input_ids: `[T]`; each run of `image_token_id` is one image.
            pixel_values: `[N, 3, H, W]` the tiles of all images in their order, or None.
            head: Name of the head.

        Returns:
            `[T, vocab]`.

        Raises:
            ValueError: The tiles do not give as many rows as there are image tokens.
        """
        batch = one_sequence(input_ids, pixel_values, self.image_token_id)
        logits: Tensor = self(batch, read=lambda heads, state: heads[head](state, batch))
        return logits

    @property
    def tokens_per_tile(self) -> int | None:
        """Visual rows that one tile of the encoder's own size becomes; None without an encoder."""
        if self.vision is None:
            return None
        rows, columns = self.vision.grid((self.vision.image_size, self.vision.image_size))
        return rows * columns if self.merger is None else self.merger.num_tokens((rows, columns))

    def parts(self) -> dict[str, Component]:
        """The filled slots by name; heads as `heads.NAME`."""
        slots = ("vision", "fuser", "merger", "projector", "embedder", "position", "backbone")
        found = {name: getattr(self, name) for name in slots if getattr(self, name) is not None}
        return found | {f"heads.{name}": cast(Head, head) for name, head in self.heads.items()}

    def tie_weights(self) -> None:
        """Gives the embedder's word table to the heads that are tied to it. May be called again."""
        table = self.embedder.word_table() if self.embedder is not None else None
        for head in self.heads.values():
            cast(Head, head).tie(table)

    def init_weights(self, seed: int) -> None:
        """Draws every part's weights as a function of the seed, the slot and the parameter's name."""
        for name, part in self.parts().items():
            if not (isinstance(part, Head) and part.is_tied):  # a word table starts as its owner says
                part.init_weights(seed, name)

    def _every_part_must_run(self, runtime: Runtime) -> bool:
        """Whether a pack without images must run the encoder all the same.

        Where parts are sharded or gradients are reduced, every rank has to take part in the communication of every
        part, in the same order: a rank without images would hang the others. The rows of a blank tile stand in; no
        position points to them, so they change nothing, and each trainable parameter gets a gradient tensor.
        """
        decoding = runtime.cache is not None and not runtime.cache.is_empty
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self.vision is not None and not decoding and (torch.is_grad_enabled() or distributed)

    def _blank_tile(self) -> ImageBatch:
        assert self.vision is not None
        side = self.vision.image_size
        pixels = torch.zeros(1, 3, side, side, device=self.device)
        return ImageBatch(pixels, torch.zeros(1, dtype=torch.long, device=self.device))
