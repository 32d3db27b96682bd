"""Multimodal model composed of components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mmcomponents.backbones.base import Backbone
from mmcomponents.batch import ImageBatch, ModelState, PackedBatch, TokenType, VisualFeatures
from mmcomponents.component import Component, WiringError
from mmcomponents.embedders.base import Embedder
from mmcomponents.fusers.base import Fuser
from mmcomponents.heads.base import Head
from mmcomponents.mergers.base import Merger
from mmcomponents.nn.runtime import Runtime
from mmcomponents.positions.base import Position
from mmcomponents.projectors.base import Projector
from mmcomponents.sequence import one_sequence
from mmcomponents.vision.base import VisionEncoder

Read = Callable[[nn.ModuleDict, ModelState], Any]
"""Function of an objective or a sampler, called with heads and state inside the model's forward."""

Width = int | tuple[int, ...] | None


class MultimodalModel(LightningModule):
    """Computes hidden states from tiles and tokens with one component per slot; any slot may be empty.

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

    Raises:
        WiringError: Two components do not fit together.
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
        _check_wiring(self)
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
            ValueError: The pack points to more or fewer visual tokens than there are.
        """
        runtime = runtime or Runtime()
        state = ModelState(visual_tokens=runtime.visual_tokens)
        if runtime.cache is not None:
            runtime.cache.begin(batch.layout)
        images = batch.images or (self._blank_tile() if self._needs_blank_tile(runtime) else None)
        if images is not None and state.visual_tokens is None:
            state.visual = self.encode(images)
            state.visual_tokens = self.project(state.visual)
        is_blank = batch.images is None and runtime.visual_tokens is None
        _check_visual_tokens(batch, None if is_blank else state.visual_tokens)
        if self.embedder is not None:
            state.embeds = self.embedder(batch, state.visual_tokens, runtime)
        if self.backbone is not None:
            rotary = self.position.rotary(batch.layout) if self.position is not None else None
            state.hidden = self.backbone(state.embeds, batch.layout, rotary, runtime.cache)
        if runtime.cache is not None:
            runtime.cache.commit()
        return read(self.heads, state) if read is not None else state

    def encode(self, images: ImageBatch) -> VisualFeatures:
        """Encodes tiles as the visual features that the projector takes."""
        if self.vision is None:
            raise ValueError(f"the pack has {images.pixels.shape[0]} tiles and the model has no vision encoder")
        features: VisualFeatures = self.vision(images)
        for part in (self.fuser, self.merger):
            features = features if part is None else part(features)
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

    def init_weights(self, seed: int) -> None:
        """Draws the weights of all components as a function of seed, slot and parameter name."""
        for name, part in self.parts().items():
            if not (isinstance(part, Head) and part.is_tied):  # the embedder draws the embedding weight
                part.init_weights(seed, name)

    def _needs_blank_tile(self, runtime: Runtime) -> bool:
        """Whether the encoder has to run on a blank tile for a pack without images.

        If components are sharded or gradients are reduced, all ranks have to take part in the communication of all
        components, in the same order: a rank without images would hang the others. No position points to the visual
        tokens of the blank tile, so they do not change the result, and each trainable parameter gets a gradient tensor.
        """
        decoding = runtime.cache is not None and not runtime.cache.is_empty
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self.vision is not None and not decoding and (torch.is_grad_enabled() or distributed)

    def _blank_tile(self) -> ImageBatch:
        assert self.vision is not None
        side = self.vision.image_size
        pixels = torch.zeros(1, 3, side, side, device=self.device)
        return ImageBatch(pixels, torch.zeros(1, dtype=torch.long, device=self.device))


def _check_wiring(model: MultimodalModel) -> None:
    """Compares the output size of each component with the input size of the next one.

    Components without a size attribute (such as those of third parties) are not compared.

    Raises:
        WiringError: Two sizes differ; the message names both components and both sizes.
    """
    giver: Component | None = model.vision
    gives: Width = _width(giver, "hidden_size")
    for name in ("fuser", "merger", "projector"):
        taker = getattr(model, name)
        if taker is None:
            continue
        if model.vision is None:
            raise WiringError(f"the {name} {_name(taker)} has no input: the vision slot is empty")
        _compare(giver, "gives maps of width", gives, taker, "takes", _width(taker, "in_features"))
        giver, gives = taker, _width(taker, "out_features")
    for part, former, name in (
        (model.projector, "needs_word_table", "needs_embedding_weight"),
        (model.embedder, "word_table", "embedding_weight"),
    ):
        if hasattr(part, former):
            raise WiringError(f"{_name(part)} has {former}, which is now called {name}")
    if model.projector is not None and model.projector.needs_embedding_weight:
        if model.embedder is None:
            raise WiringError(f"{_name(model.projector)} needs the embedding weight and the embedder slot is empty")
        if model.embedder.embedding_weight() is None:
            raise WiringError(
                f"{_name(model.projector)} needs the embedding weight and {_name(model.embedder)} has none"
            )
    if model.vision is not None:
        _check_grid(model)
    heads = cast("dict[str, Head]", dict(model.heads.items()))
    body = model.backbone
    if body is None:
        for name, head in heads.items():
            if "hidden" in head.needs:
                raise WiringError(f"the head {name} ({_name(head)}) reads hidden states and the backbone slot is empty")
        return
    if model.vision is not None:
        _compare(giver, "gives tokens of width", gives, body, "takes", body.hidden_size)
    _compare(model.embedder, "gives width", _width(model.embedder, "hidden_size"), body, "takes", body.hidden_size)
    _compare(model.position, "is made for heads of", _width(model.position, "head_dim"), body, "has", body.head_dim)
    if model.position is not None and body.refuses_tables is not None:
        raise WiringError(f"{_name(model.position)} cannot be used: {body.refuses_tables}")
    for head in heads.values():
        _compare(body, "gives hidden states of width", body.hidden_size, head, "takes", _width(head, "in_features"))


def _check_visual_tokens(batch: PackedBatch, visual_tokens: Tensor | None) -> None:
    """Compares the number of visual tokens that a pack points to with the number of visual tokens.

    Raises:
        ValueError: They differ, so that tokens of one image would be placed at positions of another.
    """
    if visual_tokens is None and batch.images is None and batch.visual_index.device.type != "cpu":
        return  # text only, checked when it was packed: avoids a synchronisation with the device
    is_image = (batch.layout.token_type == TokenType.IMAGE).sum()
    addressed = (batch.visual_index >= 0).sum()
    highest = batch.visual_index.max() + 1 if batch.num_tokens else addressed
    images, placed, used = torch.stack((is_image, addressed, highest)).tolist()
    given = 0 if visual_tokens is None else visual_tokens.shape[0]
    if used != given:
        raise ValueError(f"the pack points to {used} visual tokens and its images give {given}")
    if images > placed:
        raise ValueError(f"the pack has {images} image tokens and {placed} of them point to a visual token")


def _check_grid(model: MultimodalModel) -> None:
    assert model.vision is not None
    side = model.vision.image_size
    try:
        tokens = model.tokens_per_tile
    except ValueError as error:
        raise WiringError(
            f"{_name(model.vision)} makes a {'x'.join(map(str, model.vision.grid((side, side))))} map of a tile of "
            f"{side} pixels, which {_name(model.merger)} cannot take: {error}"
        ) from error
    if tokens == 0:
        raise WiringError(f"{_name(model.merger)} makes no tokens of a tile of {side} pixels")


def _compare(a: Component | None, gives: str, x: Width, b: Component | None, takes: str, y: Width) -> None:
    if a is not None and b is not None and x is not None and y is not None and x != y:
        raise WiringError(f"{_name(a)} {gives} {x} and {_name(b)} {takes} {y}")


def _width(part: Component | None, name: str) -> Width:
    width: Width = getattr(part, name, None)
    return width


def _name(part: Component | None) -> str:
    return type(part).__name__
