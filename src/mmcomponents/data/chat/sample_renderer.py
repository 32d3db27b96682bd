"""Preparation of samples: decoding, tiling and normalization of images, and rendering of conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, get_args

from PIL import Image

from mmcomponents.data.chat.document import render_document
from mmcomponents.data.chat.placeholders import (
    FRAME_TEMPLATE,
    Message,
    frame_prompt,
    place_image,
    place_media,
)
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.special_tokens import END, PAD, ControlText, check_template, codec
from mmcomponents.data.chat.template import RenderedChat, render_chat, render_prompt
from mmcomponents.data.media.images import NORMALIZATIONS, Normalization, TiledImage, decode_image, load_image, pixels
from mmcomponents.data.media.tiling import Tiling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Augmentation = Callable[[int, list[Image.Image]], list[Image.Image]]
"""Augments the tiles of an image, given its number within the sample."""


class Typed(Protocol):
    """Interface of record kinds that render what a user asks; see `RecordKind.typed`."""

    def typed(self, text: str, images: Sequence[TiledImage], renderer: SampleRenderer) -> RenderedSample | None:
        """Renders a text with images; None if it is a turn of a conversation."""
        ...


@dataclass
class SampleRenderer:
    """Prepares samples with the settings of a run.

    Attributes:
        tokenizer: Tokenizer with the tokens of the chat template.
        tokens_per_tile: Number of visual tokens of a tile, the only property of the model that the data depends on.
        tiling: Tiling of images.
        normalization: Name of the mean and standard deviation of the channels.
        system: System text for conversations that have none; None: no system block.
        control_text: Treatment of control tokens in texts, see `render_chat`.
        frame_template: Text of one video frame, see `frame_prompt`.
        typed_by: Record kinds of the run, which may render what users ask, see `RecordKind.typed`.

    Raises:
        TemplateError: The tokenizer lacks tokens of the chat template.
        ValueError: Another setting is invalid.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens_per_tile: int
    tiling: Tiling = field(default_factory=Tiling)
    normalization: Normalization = "imagenet"
    system: str | None = None
    control_text: ControlText = "encode"
    frame_template: str = FRAME_TEMPLATE
    typed_by: Sequence[Typed] = ()

    def __post_init__(self) -> None:
        check_template(self.tokenizer, images=False)  # image tokens are checked when a sample has images
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, not {self.normalization!r}")
        if self.tokens_per_tile < 1:
            raise ValueError(f"tokens_per_tile must be positive, not {self.tokens_per_tile}")
        if self.control_text not in get_args(ControlText):
            raise ValueError(
                f"control_text must be one of {', '.join(get_args(ControlText))}, not {self.control_text!r}"
            )
        frame_prompt(1, self.frame_template)

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        ids = codec(self.tokenizer).ids
        return ids.get(PAD, ids[END])

    @property
    def system_tokens(self) -> int:
        """Number of tokens of the system block, which the index does not count."""
        if self.system is None:
            return 0
        ask: list[Message] = [{"role": "user", "content": ""}]
        lengths = [len(render_prompt(ask, self.tokenizer, [], system).input_ids) for system in (self.system, None)]
        return lengths[0] - lengths[1]

    def for_prompts(self) -> SampleRenderer:
        """Returns the renderer of inference: each image of a prompt has the whole budget of tiles."""
        return replace(self, tiling=replace(self.tiling, share=False))

    def tile(
        self, images: Sequence[Image.Image], tiling: Tiling | None = None, augment: Augmentation | None = None
    ) -> list[TiledImage]:
        """Tiles the images of one sample, see `Tiling.for_images`, and normalizes their pixels.

        Args:
            images: Images of the sample.
            tiling: Tiling of the images; None: that of the run.
            augment: Augmentation of the tiles.

        Raises:
            ImageError: An image is broken or too large.
        """
        tiling = (tiling or self.tiling).for_images(len(images))
        sizes, tiles = [], []
        for image in map(load_image, images):
            sizes.append(image.size)
            tiles.append(tiling.cut(image))
        if augment is not None:
            tiles = [augment(number, cut) for number, cut in enumerate(tiles)]
        return [self._normalized(cut, size) for cut, size in zip(tiles, sizes, strict=True)]

    def tile_frames(self, frames: Sequence[Image.Image]) -> list[TiledImage]:
        """Converts each frame of a video to one normalized tile.

        Raises:
            ImageError: A frame is broken or too large.
        """
        tiling = self.tiling.for_frames()
        return [self._normalized(tiling.cut(load_image(frame))) for frame in frames]

    def _normalized(self, tiles: Sequence[Image.Image], size: tuple[int, int] | None = None) -> TiledImage:
        return TiledImage(pixels(tiles, *NORMALIZATIONS[self.normalization]), size=size)

    def decode(
        self, files: Sequence[bytes], tiling: Tiling | None = None, augment: Augmentation | None = None
    ) -> list[TiledImage]:
        """Decodes image files and tiles them, see `tile`.

        Raises:
            ImageError: An image is broken, truncated or too large.
        """
        return self.tile([decode_image(data) for data in files], tiling, augment)

    def document(self, text: str, images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a document for training, see `render_document`.

        Raises:
            ConversationError: The document cannot be rendered.
        """
        return render_document(text, self.tokenizer, self.visual_tokens(images), self.control_text)

    def place(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        videos: Sequence[Sequence[Image.Image]] = (),
    ) -> tuple[list[Message], list[TiledImage]]:
        """Places images and videos in a conversation, and tiles them.

        Each video frame is one additional tile.

        Args:
            messages: The conversation, with `<image>` and `<video>`; a single image or video needs no placeholder.
            images: Images in the order of `<image>`.
            videos: Frames of each video, in the order of `<video>`.

        Returns:
            Arguments of `chat` and `prompt`: the conversation with `<image>` placeholders only, and its images in their
            order.

        Raises:
            ConversationError: The number of placeholders differs from that of images or videos.
            ImageError: An image is broken or too large.
        """
        films = [self.tile_frames(frames) for frames in videos]
        return place_media(messages, self.tile(images), films, self.frame_template)

    def chat(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation for training.

        Raises:
            ConversationError: The conversation cannot be rendered.
        """
        placed = place_image(messages, len(images))
        return render_chat(placed, self.tokenizer, self.visual_tokens(images), self.system, self.control_text)

    def prompt(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation as a prompt for generation.

        Raises:
            ConversationError: The conversation cannot be rendered.
        """
        placed = place_image(messages, len(images))
        return render_prompt(placed, self.tokenizer, self.visual_tokens(images), self.system, self.control_text)

    def typed(self, text: str, images: Sequence[TiledImage]) -> RenderedSample | None:
        """Renders a text that a user gives with images by a kind of the run; None if it is a turn of a conversation.

        Args:
            text: The text, which may have a placeholder for each image.
            images: Tiled images, in the order of their placeholders.

        Raises:
            SampleError: Text or images cannot be used.
        """
        for kind in self.typed_by:
            if (found := kind.typed(text, images, self)) is not None:
                return found
        return None

    def visual_tokens(self, images: Sequence[TiledImage]) -> list[int]:
        """Returns the number of visual tokens of each image."""
        return [image.count_tokens(self.tokens_per_tile) for image in images]
