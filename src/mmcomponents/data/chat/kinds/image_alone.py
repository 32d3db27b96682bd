"""Images without their texts, for models without a language side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer


class ImageAlone(RecordKind):
    """The images of a sample of any kind, without its texts: a segment without tokens for each.

    It is the only kind of a run, such as that of an image tokenizer.
    """

    name: ClassVar[str] = "image alone"

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a record, which there always is."""
        return True

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the images as segments without tokens.

        Raises:
            SampleError: There is no image.
        """
        if not sample.images:
            raise SampleError("a sample without an image, of which nothing else is read")
        return [RenderedSample([], [], images=[image]) for image in sample.images]

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Returns False: there is no text."""
        return False
