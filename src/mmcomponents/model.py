"""Multimodal model composed of components."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone
from mmcomponents.batch import ImageBatch, ModelState, PackedBatch, TokenType, VisualFeatures
from mmcomponents.component import Component, WiringError
from mmcomponents.embedders.base import Embedder
from mmcomponents.embedders.text_context import with_text_context
from mmcomponents.fusers.base import Fuser
from mmcomponents.heads.base import Head
from mmcomponents.mergers.base import Merger
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions.base import Position
from mmcomponents.projectors.base import Projector
from mmcomponents.sequence import one_sequence
from mmcomponents.vision.base import VisionEncoder
from mmcomponents.wiring import check_wiring

Read = Callable[[nn.ModuleDict, ModelState], Any]
"""Function of an objective or a sampler, called with heads and state inside the model's forward."""


class MultimodalModel(LightningModule):
    """Computes hidden states from tiles and tokens with one component per slot; any slot may be empty.

    A model without embedder and backbone has no language side: its heads read feature maps, and its packs may have no
    tokens.

    Args:
        vision: Encodes tiles as feature maps.
        fuser: Fuses feature maps.
        merger: Merges a feature map into fewer, wider tokens.
        projector: Projects tokens to the width of the backbone.
        embedder: Embeds the pack as input of the backbone.
        position: Computes rotary tables from the layout.
        backbone: Maps the sequence to hidden states.
        heads: Heads by name.
        image_token_id: Token id of the placeholder of a visual token, required by `logits`.

    Attributes:
        renderer_of: Returns the renderer of prompts for a tokenizer, with the tiling, the colours and the system text
            that the model was trained with. `load` sets it; None for a model that was composed.

    Raises:
        WiringError: Two components do not fit together.
    """

    renderer_of: Callable[[Any], Any] | None = None

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
        if embedder is not None:
            embedder.bind(position)
        self.tie_weights()

    def forward(self, batch: PackedBatch, runtime: Runtime | None = None, read: Read | None = None) -> Any:
        """Runs the model over a pack.

        Heads are called through `read` only: sharded weights are gathered only while this method runs.

        Args:
            batch: The pack.
            runtime: Cache, or visual tokens encoded earlier.
            read: Called with the heads and the state.

        Returns:
            Result of `read`; without it, the `ModelState`.

        Raises:
            TypeError: `batch` is no pack.
            WiringError: The pack points to more visual tokens than there are; or to fewer, unless its images have more,
                or the call decodes or gets its visual tokens from `runtime`.
        """
        if not isinstance(batch, PackedBatch):
            raise TypeError(f"the model takes a PackedBatch, got {type(batch).__name__}: logits takes plain tensors")
        runtime = runtime or Runtime()
        state = ModelState(visual_tokens=runtime.visual_tokens)
        if runtime.cache is not None:
            runtime.cache.begin(batch.layout)
        images = batch.images
        if images is None and self.vision is not None and self._needs_blank_tile(runtime):
            images = self.vision.blank(self.device)
        external = None if self.embedder is None else self.embedder.external(batch)
        if external is not None:
            runtime = replace(runtime, inserted={**runtime.inserted, TokenType.EXTERNAL: external})
            images = None if images is None else with_text_context(images, batch, external)
        if images is not None and state.visual_tokens is None:
            state.visual = self.encode(images)
            state.visual_tokens = self.project(state.visual)
        if self.embedder is not None and runtime.reaches("embeds"):
            is_blank = batch.images is None and runtime.visual_tokens is None
            _check_visual_tokens(batch, None if is_blank else state.visual_tokens, runtime)
            state.embeds = self.embedder(batch, state.visual_tokens, runtime)
        if self.backbone is not None and runtime.reaches("hidden"):
            rotary = self.position.rotary(batch.layout) if self.position is not None else None
            state.hidden = self.backbone(state.embeds, batch.layout, rotary, runtime.cache)
        if runtime.cache is not None:
            runtime.cache.commit()
        return read(self.heads, state) if read is not None else state

    def encode(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles as the visual features that the projector takes."""
        if self.vision is None:
            raise ValueError(f"the pack has {images.num_tiles} tiles and the model has no vision encoder")
        features = _of_images(self.vision(images), images)
        for part in (self.fuser, self.merger):
            features = features if part is None else _of_images(part(features), images)
        return features

    def project(self, features: VisualFeatures) -> Tensor:
        """Projects visual features to visual tokens `[R, d]`, tile after tile."""
        if self.projector is None:
            return features.primary.tokens.flatten(0, 1)
        weight = None
        if self.projector.needs_embedding_weight and self.embedder is not None:
            weight = self.embedder.embedding_weight()
        tokens: Tensor = self.projector(features, weight)
        return tokens.flatten(0, 1)

    def logits(self, input_ids: Tensor, pixel_values: Tensor | None = None, head: str = "lm") -> Tensor:
        """Computes the logits of one sequence from plain tensors.

        Args:
            input_ids: `[T]`; each run of `image_token_id` is one image.
            pixel_values: `[N, 3, H, W]` tiles of all images in order, or None.
            head: Name of the head.

        Returns:
            `[T, vocab]`.

        Raises:
            ValueError: The tiles give more or fewer visual tokens than there are image tokens.
        """
        batch = one_sequence(input_ids, pixel_values, self.image_token_id)
        logits: Tensor = self(batch, read=lambda heads, state: heads[head](state, batch))
        return logits

    @property
    def tokens_per_tile(self) -> int | None:
        """Number of visual tokens per tile of the encoder's image size; None without an encoder."""
        if self.vision is None:
            return None
        rows, columns = self.vision.grid((self.vision.image_size, self.vision.image_size))
        if self.fuser is not None:
            rows, columns = self.fuser.grid((rows, columns))
        return rows * columns if self.merger is None else self.merger.num_tokens((rows, columns))

    def parts(self) -> dict[str, Component]:
        """Returns the components of the filled slots by name; heads as `heads.NAME`."""
        slots = ("vision", "fuser", "merger", "projector", "embedder", "position", "backbone")
        found = {name: getattr(self, name) for name in slots if getattr(self, name) is not None}
        return found | {f"heads.{name}": cast(Head, head) for name, head in self.heads.items()}

    def tie_weights(self) -> None:
        """Assigns the embedding weight to the tied heads. Can be called again."""
        weight = self.embedder.embedding_weight() if self.embedder is not None else None
        for head in self.heads.values():
            cast(Head, head).tie(weight)

    def init_weights(self, seed: int, given: Mapping[str, Collection[str]] | None = None) -> None:
        """Draws the weights of all components as a function of seed, slot and parameter name.

        Args:
            seed: Number that all draws depend on.
            given: Slot -> names of its parameters that are loaded afterwards, and not drawn.
        """
        for name, part in self.parts().items():
            if not (isinstance(part, Head) and part.is_tied):  # the embedder draws the embedding weight
                part.init_weights(seed, name, (given or {}).get(name, ()))

    def _needs_blank_tile(self, runtime: Runtime) -> bool:
        """Whether the encoder has to run on a blank tile for a pack without images.

        If components are sharded or gradients are reduced, all ranks have to take part in the communication of all
        components, in the same order: a rank without images would hang the others. No position points to the visual
        tokens of the blank tile, so they do not change the result, and each trainable parameter gets a gradient tensor.
        Heads that read visual features get those of the blank tile in every pack without images.
        """
        decoding = runtime.cache is not None and not runtime.cache.is_empty
        read = any({"visual", "visual_tokens"} & set(cast(Head, head).needs) for head in self.heads.values())
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return not decoding and (read or torch.is_grad_enabled() or distributed)


def _of_images(features: VisualFeatures, images: ImageBatch) -> VisualFeatures:
    """Returns features with the context and the valid sizes of their images, where a part has left them out."""
    return replace(
        features,
        context=images.context if features.context is None else features.context,
        valid_hw=images.valid_hw if features.valid_hw is None else features.valid_hw,
    )


def _check_visual_tokens(batch: PackedBatch, visual_tokens: Tensor | None, runtime: Runtime) -> None:
    """Compares the number of visual tokens that a pack points to with the number of visual tokens.

    A call that decodes, or gets visual tokens that were encoded earlier, may leave some out, as guidance does; and a
    pack may have images that no position points to, if the grids of all its images add up to what they give.

    Raises:
        WiringError: They differ, so that tokens of one image would be placed at positions of another.
    """
    if visual_tokens is None and batch.images is None and batch.visual_index.device.type != "cpu":
        return  # text only, checked when it was packed: avoids a synchronisation with the device
    is_image = (batch.layout.token_type == TokenType.IMAGE).sum()
    addressed = (batch.visual_index >= 0).sum()
    highest = batch.visual_index.max() + 1 if batch.num_tokens else addressed
    in_grids = batch.layout.grid.prod(1).sum()
    images, placed, used, declared = torch.stack((is_image, addressed, highest, in_grids)).tolist()
    given = 0 if visual_tokens is None else visual_tokens.shape[0]
    decoding = runtime.visual_tokens is not None or (runtime.cache is not None and not runtime.cache.is_empty)
    if used > given or (used < given and not decoding and declared != given):
        raise WiringError(f"the pack points to {used} visual tokens and its images give {given}")
    if images > placed:
        raise WiringError(f"the pack has {images} image tokens and {placed} of them point to a visual token")
