"""Pictures to be made after a reasoning text with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.reasoned_prompt import reasoned_answer
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample, Span
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.boxes import SCALE
from mmcomponents.data.media.images import decode_image, picture_values
from mmcomponents.data.media.reasoned_boxes import parse_reasoning
from mmcomponents.extras import DrawnBoxes, Extra, Pictures, References
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.movable import Exact

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer

MEMBER = "picture.png"
"""Suffix of the member that has the picture."""

_BLACK = -1.0


class ReasonedPicture(RecordKind):
    """A picture that is made or edited after a reasoning text (GoT, arXiv 2503.10639, section 3).

    `{"request": "Generate an image of: a red bus", "reasoning": "<ref>a red bus</ref><box>[[…]]</box> (red)"}`, and the
    picture as the member `KEY.picture.png`. A sample with an image edits it: the language model reads its tiles, and
    the image itself, which has the size of the picture, is the reference. The answer is the reasoning, and
    `num_queries` positions of type `QUERY`. The fields are `pictures` and `drawn_boxes` of a pack, and `references` of
    prompts.

    Args:
        picture_size: Side of a picture in pixels.
        num_queries: Number of queries of a picture.

    Raises:
        ValueError: A size is out of range.
    """

    name: ClassVar[str] = "reasoned"
    members: ClassVar[tuple[str, ...]] = (MEMBER,)

    def __init__(self, picture_size: int, num_queries: int = 64) -> None:
        check_sizes(picture_size=picture_size)
        check_sizes(MAX_ROWS, num_queries=num_queries)
        self.picture_size, self.num_queries = picture_size, num_queries

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there are a request and a reasoning."""
        return "request" in record and "reasoning" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that both are texts, and that all boxes of the reasoning can be read.

        Raises:
            SampleError: They are not, or a box cannot.
        """
        for key in ("request", "reasoning"):
            if not isinstance(record[key], str):
                raise SampleError(f'wrong JSON: "{key}" is not a text, but {str(record[key])[:60]}')
        if not record["request"].strip():
            raise SampleError("the request has no text")
        if problems := parse_reasoning(record["reasoning"]).problems:
            raise SampleError(f"the reasoning: {problems[0]}")

    def empty(self) -> dict[str, Extra]:
        """Returns the fields without pictures."""
        none = torch.zeros(0, 3, self.picture_size, self.picture_size)
        return {"pictures": Pictures(Exact(none), Exact(none)), "drawn_boxes": DrawnBoxes.of()}

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the sample as one segment.

        Raises:
            SampleError: The picture or the reference is missing, broken, or of another size, or there are several.
        """
        segment = self._asked(sample, renderer)
        answer = reasoned_answer(sample.record["reasoning"], self.num_queries, renderer.tokenizer)
        begin = len(segment.input_ids) + answer.queries
        segment.spans = [*segment.spans, Span(begin, self.num_queries, TokenType.QUERY)]
        segment.input_ids = [*segment.input_ids, *answer.input_ids]
        segment.labels = [*segment.labels, *answer.labels]
        found = parse_reasoning(sample.record["reasoning"]).boxes
        boxes = [[value / SCALE for value in one.box] for one in found]
        segment.extras = {
            "pictures": Pictures(Exact(self._picture(sample)[None]), Exact(self._reference(sample)[None])),
            "drawn_boxes": DrawnBoxes.of(boxes, [one.rgb for one in found]),
        }
        return [segment]

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns 1: the request."""
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the request, whose true answer is the reasoning."""
        record, segment, given = sample.record, self._asked(sample, renderer), [*sample.files]
        references = [self._values(file, "the reference picture") for file in given]
        segment.extras = {"references": References.of(references, [0] * len(given), self.picture_size)}
        return [Prompt(segment, record["request"], record["reasoning"], "picture")]

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Compares number of queries and size of pictures with what the parts have.

        Raises:
            ValueError: They differ.
        """
        for name, part in parts.items():
            for what in ("num_queries", "picture_size"):
                theirs, own = getattr(part, what, None), getattr(self, what)
                if theirs is not None and theirs != own:
                    raise ValueError(
                        f"{name} ({type(part).__name__}) has {what} {theirs}, and ReasonedPicture in data.kinds {own}"
                    )

    def _asked(self, sample: Sample, renderer: SampleRenderer) -> RenderedSample:
        if len(sample.images) > 1 or sample.videos:
            count = len(sample.images) + len(sample.videos)
            raise SampleError(f"a picture is made of one reference picture or of none, got {count} images and videos")
        chat = renderer.prompt([{"role": "user", "content": sample.record["request"]}], sample.images)
        segment = RenderedSample.of_chat(chat, sample.images)
        segment.labels = [IGNORE] * len(chat.input_ids)
        return segment

    def _picture(self, sample: Sample) -> Tensor:
        content = sample.members.get(MEMBER)
        if content is None:
            raise SampleError(f"the sample has no member {MEMBER}")
        return self._values(content, "the picture")

    def _reference(self, sample: Sample) -> Tensor:
        if not sample.files:
            return torch.full((3, self.picture_size, self.picture_size), _BLACK)
        return self._values(sample.files[0], "the reference picture")

    def _values(self, file: bytes, name: str) -> Tensor:
        try:
            return picture_values(decode_image(file), self.picture_size, name)
        except ValueError as error:
            raise SampleError(str(error)) from error
