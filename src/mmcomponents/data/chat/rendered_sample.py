"""Rendered samples: segments of a pack with token ids, types of tokens, images and fields of their kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmcomponents.batch import TokenType
from mmcomponents.data.chat.template import RenderedChat
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Extra


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of a type other than text.

    Attributes:
        start: Index of the first token in its segment.
        count: Number of tokens.
        type: `TokenType` of the tokens.
        image: Index in `RenderedSample.images` of the image whose visual tokens are placed here; -1 for none.

    Raises:
        ValueError: A value is no integer, or the type does not exist.
    """

    start: int
    count: int
    type: TokenType = TokenType.IMAGE
    image: int = -1

    def __post_init__(self) -> None:
        if not all(isinstance(value, int) for value in (self.start, self.count, self.image)) or self.image < -1:
            raise ValueError(f"a span has integers, and -1 for no image, got {(self.start, self.count, self.image)}")
        TokenType(self.type)


@dataclass
class RenderedSample:
    """One segment of a pack.

    Attributes:
        input_ids: Token ids. At positions of other types than text they are placeholders.
        labels: Ids of the supervised tokens, `IGNORE` elsewhere; same length as `input_ids`, not shifted.
        spans: Tokens of other types than text, which do not overlap.
        images: Images of the segment. Those that no span places are encoded too, for heads that read feature maps.
        extras: Fields that the kind adds to the pack, by name. "pairs" and "steps" are the pack's own `Pairs` and
            `Steps`; all others are found in `PackedBatch.extras`.
        sample: Number of the sample.
        source: Number of its source.
        key: Shard and key.
        copy: Number of earlier occurrences of the sample in the epoch.
        kind: Name of its record kind, for messages.
    """

    input_ids: Sequence[int]
    labels: Sequence[int]
    spans: Sequence[Span] = ()
    images: list[TiledImage] = field(default_factory=list)
    extras: dict[str, Extra] = field(default_factory=dict)
    sample: int = -1
    source: int = -1
    key: str = ""
    copy: int = 0
    kind: str = ""

    @classmethod
    def of_chat(
        cls,
        chat: RenderedChat,
        images: Sequence[TiledImage] = (),
        extras: Mapping[str, Extra] | None = None,
        sample: int = -1,
        source: int = -1,
        key: str = "",
    ) -> RenderedSample:
        """Returns a segment of a rendered conversation or document.

        Args:
            chat: The conversation.
            images: One for each of `chat.image_spans`.
            extras: See the class.
            sample: See the class.
            source: See the class.
            key: See the class.

        Raises:
            ValueError: Images and their spans differ in number.
        """
        if len(chat.image_spans) != len(images):
            raise ValueError(f"{key}: {len(chat.image_spans)} image spans for {len(images)} images")
        spans = [Span(start, count, TokenType.IMAGE, image) for image, (start, count) in enumerate(chat.image_spans)]
        return cls(chat.input_ids, chat.labels, spans, list(images), dict(extras or {}), sample, source, key)

    def check(self) -> None:
        """Checks labels and spans.

        Raises:
            ValueError: Ids and labels differ in number, or a span leaves the segment, overlaps another one, or names an
                image that does not exist.
        """
        length, last = len(self.input_ids), 0
        if len(self.labels) != length:
            raise ValueError(f"{length} ids and {len(self.labels)} labels")
        for span in sorted(self.spans, key=lambda span: span.start):
            end = span.start + span.count
            if not 0 <= span.start <= end <= length:
                raise ValueError(f"a span from {span.start} to {end} in a segment of {length} tokens")
            if span.count and span.start < last:
                raise ValueError(f"the span from {span.start} to {end} overlaps another one")
            if span.image >= len(self.images):
                raise ValueError(f"a span of image {span.image} in a segment of {len(self.images)} images")
            if span.type == TokenType.IMAGE and span.image < 0:
                raise ValueError(f"the span from {span.start} to {end} is of an image, and names none")
            last = max(last, end)


@dataclass(frozen=True)
class Prompt:
    """A question of a sample, as the start of a segment that a sampler continues.

    Attributes:
        segment: The prompt.
        question: Its text, for display.
        answer: The true answer: a text, or a value that JSON can hold.
        kind: Kind of the question, "" if the sample gives none.
        form: What the question asks for: text, picture or values. "": not known.
    """

    segment: RenderedSample
    question: str
    answer: Any
    kind: str = ""
    form: str = ""
