"""Conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.placeholders import Message, place_media
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample
from mmcomponents.data.chat.single_questions import single_questions
from mmcomponents.data.chat.template import check_roles
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer

ANSWERS = ("chosen", "rejected")
"""Keys of the answers of a pair."""


class Conversational(RecordKind):
    """Base class of kinds with "messages"."""

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that the messages are a list.

        Raises:
            SampleError: They are not.
        """
        if not isinstance(record["messages"], list):
            raise SampleError(f'wrong JSON: "messages" is not a list ({type(record["messages"]).__name__})')

    def conversations(self, record: Mapping[str, Any]) -> list[list[Message]]:
        """Returns the conversation of each segment; the first one is that whose questions are asked."""
        return [list(record["messages"])]

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders each conversation as a segment."""
        segments = []
        for messages in self.conversations(sample.record):
            check_roles(messages, "assistant")
            placed, order = place_media(messages, sample.images, sample.videos, renderer.frame_template)
            segments.append(RenderedSample.of_chat(renderer.chat(placed, order), order))
        return segments

    def turns(self, record: Mapping[str, Any]) -> int:
        """Counts the assistant's turns."""
        return sum(message["role"] == "assistant" for message in self.conversations(record)[0])

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Whether the conversation has no system text of its own."""
        return bool(self.conversations(sample.record)[0][0]["role"] != "system")

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns each question as a prompt of its own; it shares the images with the others."""
        messages, order = place_media(
            self.conversations(sample.record)[0], sample.images, sample.videos, renderer.frame_template
        )
        renderer.chat(messages, order)  # raises for samples that training would skip
        found = []
        for question in single_questions(messages, sample.record.get("kinds")):
            mine = order if len(order) == 1 else order[: question.images]
            segment = RenderedSample.of_chat(renderer.prompt(question.messages, mine), mine)
            text = question.messages[-1]["content"].replace("<image>", "").strip()
            found.append(Prompt(segment, text, question.answer, question.kind, "text"))
        return found


class Chat(Conversational):
    """Conversations: `{"messages": [{"role": "user", "content": "<image> How many?"}, …]}`."""

    name: ClassVar[str] = "chat"

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there are messages and no answers of a pair."""
        return "messages" in record and not any(name in record for name in ANSWERS)
