"""From a record and its image files to a segment of a pack: decode, tile, normalise, render the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from mmcomponents.data.chat import (
    END,
    PAD,
    ConversationError,
    Message,
    RenderedChat,
    check_template,
    place_image,
    render_chat,
    render_prompt,
)
from mmcomponents.data.collate import TiledImage
from mmcomponents.data.images import NORMALIZATIONS, Normalization, decode_image, pixels
from mmcomponents.data.tiling import Tiling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class SampleRenderer:
    """All that is the same for every sample of a run.

    Attributes:
        tokenizer: Has the tokens of the chat template.
        tokens_per_tile: Rows of the visual table that a tile becomes: all that the data knows of the model.
        tiling: How images are cut.
        normalization: Name of the mean and deviation of the colours.
        system: System text for conversations that have none of their own; None: no system block.

    Raises:
        TemplateError: The tokenizer lacks tokens of the chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    tokens_per_tile: int
    tiling: Tiling = field(default_factory=Tiling)
    normalization: Normalization = "imagenet"
    system: str | None = None

    def __post_init__(self) -> None:
        check_template(self.tokenizer)
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization {self.normalization!r} is none of {', '.join(NORMALIZATIONS)}")
        if self.tokens_per_tile < 1:
            raise ValueError(f"tokens_per_tile must be positive, not {self.tokens_per_tile}")

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

    def tile(self, images: Sequence[Image.Image]) -> list[TiledImage]:
        """Cuts the images of one sample, which share the budget of tiles, and normalises their pixels."""
        tiling = self.tiling.for_images(len(images))
        mean, std = NORMALIZATIONS[self.normalization]
        return [TiledImage(pixels(tiling.cut(image.convert("RGB")), mean, std)) for image in images]

    def decode(self, files: Sequence[bytes]) -> list[TiledImage]:
        """Decodes image files and cuts them.

        Raises:
            ImageError: One is broken, truncated or too large.
        """
        return self.tile([decode_image(data) for data in files])

    def chat(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation for training.

        Raises:
            ConversationError: It cannot be rendered.
        """
        return render_chat(place_image(messages, len(images)), self.tokenizer, self.rows(images), self.system)

    def prompt(self, messages: Sequence[Message], images: Sequence[TiledImage]) -> RenderedChat:
        """Renders a conversation that the model is to continue.

        Raises:
            ConversationError: It cannot be rendered.
        """
        return render_prompt(place_image(messages, len(images)), self.tokenizer, self.rows(images), self.system)

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
