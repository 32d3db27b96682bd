"""Plain documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.placeholders import Message, place_media
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer


class Document(RecordKind):
    """Documents: `{"text": "Plain text with <image> placeholders."}`."""

    name: ClassVar[str] = "document"

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a text."""
        return "text" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that the text is one.

        Raises:
            SampleError: It is not.
        """
        if not isinstance(record["text"], str):
            raise SampleError(f'wrong JSON: "text" is not a text ({type(record["text"]).__name__})')

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the document as one segment."""
        text, order = sample.record["text"], list(sample.images[:0])
        if sample.pictures:
            document: list[Message] = [{"role": "user", "content": text}]
            placed, order = place_media(document, sample.images, sample.videos, renderer.frame_template)
            text = placed[0]["content"]
        return [RenderedSample.of_chat(renderer.document(text, order), order)]

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Returns False: a document has no system text."""
        return False
