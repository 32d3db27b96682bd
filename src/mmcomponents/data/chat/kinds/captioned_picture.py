"""Pictures to be made from a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.picture_prompt import ASK, padded, picture_answer, unconditional
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample, Span
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer


class CaptionedPicture(RecordKind):
    """A picture that is made from its caption: `{"caption": "4 7"}` and one image.

    The user asks "Generate an image of: 4 7", and the answer is the picture, whose positions have the type `IMAGE_GEN`.
    In training, a share of the questions is replaced by a sentence with the unconditional token, as guidance needs
    (SynerGen-VL, arXiv 2412.09604, section 4.1). The shorter of the two forms is padded at the end, so that the length
    of a sample does not depend on the draw.

    Args:
        dropout: Share of the questions that are left out.

    Raises:
        ValueError: It is no share.
    """

    name: ClassVar[str] = "picture"

    def __init__(self, dropout: float = 0.1) -> None:
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be from 0 to 1, got {dropout}")
        self.dropout = dropout

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a caption."""
        return "caption" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that the caption is a text.

        Raises:
            SampleError: It is not.
        """
        if not isinstance(record["caption"], str) or not record["caption"].strip():
            raise SampleError(f'wrong JSON: "caption" is not a text, but {str(record["caption"])[:60]}')

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders question and picture as one segment.

        Raises:
            SampleError: There is not exactly one image, or it has more than one tile.
        """
        tiles = sum(image.num_tiles for image in sample.images)
        if len(sample.images) != 1 or sample.videos:
            raise SampleError(
                f"a picture to be made is one image, got {len(sample.images)} images and {len(sample.videos)} videos"
            )
        if tiles != 1 and sample.number >= 0:
            raise SampleError(
                f"a picture to be made is one tile, got {tiles} tiles: set data.sources.NAME.max_tiles of its source"
                " to 1"
            )
        (visual,) = renderer.visual_tokens(sample.images)
        asked = self._asked(sample, renderer)
        without = unconditional(asked, renderer.tokenizer)
        answer = picture_answer(visual, renderer.tokenizer)
        spans = []
        prompt = asked
        if sample.is_training and sample.generator("unconditional").random() < self.dropout:
            prompt = without.input_ids
            spans.append(Span(without.place, 1, TokenType.QUERY))
        ((start, count),) = answer.image_spans or [(1, 0)]
        spans.append(Span(len(prompt) + start, count, TokenType.IMAGE_GEN, image=0))
        ids, labels = prompt + answer.input_ids, [IGNORE] * len(prompt) + answer.labels
        length = max(len(asked), len(without.input_ids)) + len(answer.input_ids)
        if length > len(ids):
            spans.append(Span(len(ids), length - len(ids), TokenType.PAD))
        ids, labels = padded(ids, labels, length, renderer.pad_id)
        return [RenderedSample(ids, labels, spans, list(sample.images))]

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns 1: the question for the picture."""
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the question for the picture, whose true answer is the caption."""
        caption = sample.record["caption"]
        asked = self._asked(sample, renderer)
        segment = RenderedSample(asked, [IGNORE] * len(asked))
        return [Prompt(segment, ASK + caption, caption, "picture", "picture")]

    def _asked(self, sample: Sample, renderer: SampleRenderer) -> list[int]:
        return renderer.prompt([{"role": "user", "content": ASK + sample.record["caption"]}], []).input_ids
