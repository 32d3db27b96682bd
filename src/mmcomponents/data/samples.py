"""From a record and its image files to a segment of a pack: decode, tile, normalise, render the conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image

from mmcomponents.data.chat import (
    END,
    PAD,
    ControlText,
    ConversationError,
    Message,
    RenderedChat,
    check_template,
    place_image,
    render_chat,
    render_prompt,
)
from mmcomponents.data.collate import TiledImage
from mmcomponents.data.images import NORMALIZATIONS, Normalization, decode_image, load_image, pixels
from mmcomponents.data.placeholders import FRAME_TEMPLATE, frame_prompt, place_media
from mmcomponents.data.rendering import render_record
from mmcomponents.data.tiling import Tiling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Augmentation = Callable[[int, list[Image.Image]], list[Image.Image]]
"""What is done to the tiles of an image, given its number within the sample."""


@dataclass
class SampleRenderer:
    """All that is the same for every sample of a run.

    Attributes:
        tokenizer: Has the tokens of the chat template.
        tokens_per_tile: Rows of the visual table that a tile becomes: all that the data knows of the model.
        tiling: How images are cut.
        normalization: Name of the mean and deviation of the colours.
        system: System text for conversations that have none of their own; None: no system block.
        control_text: What becomes of a text that spells out a control token, see `render_chat`.
        frame_template: Text of one frame of a video, see `frame_prompt`.

    Raises:
        TemplateError: The tokenizer lacks tokens of the chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens_per_tile: int
    tiling: Tiling = field(default_factory=Tiling)
    normalization: Normalization = "imagenet"
    system: str | None = None
    control_text: ControlText = "encode"
    frame_template: str = FRAME_TEMPLATE

    def __post_init__(self) -> None:
        check_template(self.tokenizer, images=False)  # with images it is checked when one comes
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {self.normalization!r} is none of {', '.join(NORMALIZATIONS)}")
        if self.tokens_per_tile < 1:
            raise ValueError(f"tokens_per_tile must be positive, not {self.tokens_per_tile}")
        if self.control_text not in get_args(ControlText):
            raise ValueError(
                f"control_text must be one of {', '.join(get_args(ControlText))}, not {self.control_text!r}"
            )
        frame_prompt(1, self.frame_template)

    @property
    def pad_id(self) -> int:
        """The token of a pack that holds nothing."""
        vocabulary = self.tokenizer.get_vocab()
        return int(vocabulary.get(PAD, vocabulary[END]))

    @property
    def system_tokens(self) -> int:
        """Length of the system block, which `Index.tokens` adds."""
        if self.system is None:
            return 0
        ask: list[Message] = [{"role": "user", "content": ""}]
        lengths = [len(render_prompt(ask, self.tokenizer, [], system).input_ids) for system in (self.system, None)]
        return lengths[0] - lengths[1]

    def tile(
        self, images: Sequence[Image.Image], tiling: Tiling | None = None, augment: Augmentation | None = None
    ) -> list[TiledImage]:
        """Cuts the images of one sample, which share the budget of tiles, and normalises their pixels.

        Args:
            images: Images of the sample.
            tiling: How they are cut; None: as all.
            augment: What is done to the tiles.

        Raises:
            ImageError: One is broken or too large.
        """
        how = (tiling or self.tiling).for_images(len(images))
        tiles = [how.cut(load_image(image)) for image in images]
        if augment is not None:
            tiles = [augment(number, cut) for number, cut in enumerate(tiles)]
        return [self._normalised(cut) for cut in tiles]

    def tile_frames(self, frames: Sequence[Image.Image]) -> list[TiledImage]:
        """Makes one tile of each frame of a video.

        Raises:
            ImageError: One is broken or too large.
        """
        how = self.tiling.for_frames()
        return [self._normalised(how.cut(load_image(frame))) for frame in frames]

    def _normalised(self, tiles: Sequence[Image.Image]) -> TiledImage:
        return TiledImage(pixels(tiles, *NORMALIZATIONS[self.normalization]))

    def decode(
        self, files: Sequence[bytes], tiling: Tiling | None = None, augment: Augmentation | None = None
    ) -> list[TiledImage]:
        """Decodes image files and cuts them, see `tile`.

        Raises:
            ImageError: One is broken, truncated or too large.
        """
        return self.tile([decode_image(data) for data in files], tiling, augment)

    def render(
        self, record: Mapping[str, Any], images: Sequence[TiledImage], videos: Sequence[Sequence[TiledImage]] = ()
    ) -> tuple[list[RenderedChat], list[TiledImage]]:
        """Renders a record for training, see `render_record`.

        Raises:
            SampleError: It cannot be rendered.
        """
        how = (self.tokenizer, self.system, self.control_text, self.frame_template)
        return render_record(record, images, videos, self.rows, *how)

    def place(
        self,
        messages: Sequence[Message],
        images: Sequence[Image.Image] = (),
        videos: Sequence[Sequence[Image.Image]] = (),
    ) -> tuple[list[Message], list[TiledImage]]:
        """Places images and videos in a conversation, and cuts them.

        The images share the budget of tiles; each frame of a video is one tile more.

        Args:
            messages: The conversation, with `<image>` and `<video>`; one of a kind needs no placeholder.
            images: In the order of `<image>`.
            videos: Frames of each, in the order of `<video>`.

        Returns:
            What `chat` and `prompt` take: the conversation with nothing but `<image>`, and its images in their order.

        Raises:
            ConversationError: Placeholders differ in number from images or videos.
            ImageError: An image is broken or too large.
        """
        films = [self.tile_frames(frames) for frames in videos]
        return place_media(messages, self.tile(images), films, self.frame_template)

    def chat(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation for training.

        Raises:
            ConversationError: It cannot be rendered.
        """
        placed = place_image(messages, len(images))
        return render_chat(placed, self.tokenizer, self.rows(images), self.system, self.control_text)

    def prompt(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation that the model is to continue.

        Raises:
            ConversationError: It cannot be rendered.
        """
        placed = place_image(messages, len(images))
        return render_prompt(placed, self.tokenizer, self.rows(images), self.system, self.control_text)

    def rows(self, images: Sequence[TiledImage]) -> list[int]:
        """Rows of the visual table for each image."""
        return [len(image.pixels) * self.tokens_per_tile for image in images]


def single_questions(messages: Sequence[Message]) -> list[tuple[str, str, int]]:
    """Takes a conversation apart, so that each of its questions is asked alone.

    Args:
        messages: An optional system message, then user and assistant in alternation.

    Returns:
        For each answer: the question, the answer, and how many images the question may use. Images that came up in
        earlier turns are put in front of the question.

    Raises:
        ConversationError: Turns are not questions and answers.
    """
    turns = list(messages[1:] if messages and messages[0].get("role") == "system" else messages)
    if not turns or len(turns) % 2:
        raise ConversationError(f"{len(turns)} turns are no questions with an answer each")
    asked, seen = [], 0
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        if question.get("role") != "user" or answer.get("role") != "assistant":
            raise ConversationError(f"a {question.get('role')} and a {answer.get('role')} are no question and answer")
        text = question["content"]
        own = text.count("<image>")
        asked.append(("<image>\n" * seen + text, answer["content"], seen + own))
        seen += own
    return asked
