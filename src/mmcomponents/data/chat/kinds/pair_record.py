"""Pairs of a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from mmcomponents.batch import Pairs
from mmcomponents.data.chat.kinds.base import Sample
from mmcomponents.data.chat.kinds.chat_record import ANSWERS, Conversational
from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.errors import SampleError

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer


class Pair(Conversational):
    """Pairs of answers: `{"messages": [… ending with a user turn], "chosen": "…", "rejected": "…"}`.

    A pair is two segments, with the chosen and with the rejected answer, which share the images.
    """

    name: ClassVar[str] = "pair"

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there are messages and an answer of a pair."""
        return "messages" in record and any(name in record for name in ANSWERS)

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks messages and answers.

        Raises:
            SampleError: The messages are not a list, or the answers not two different texts.
        """
        super().check(record)
        if not all(isinstance(record.get(name), str) for name in ANSWERS):
            raise SampleError('wrong JSON: a pair must have two texts, "chosen" and "rejected"')
        if record["chosen"] == record["rejected"]:
            raise SampleError("the chosen and the rejected answer are equal")

    def conversations(self, record: Mapping[str, Any]) -> list[list[Message]]:
        """Returns the conversation with the chosen answer, and with the rejected one."""
        return [[*record["messages"], {"role": "assistant", "content": record[name]}] for name in ANSWERS]

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders both conversations."""
        chosen, rejected = super().render(sample, renderer)
        chosen.extras["pairs"] = Pairs(torch.tensor([0]), torch.tensor([1]))
        return [chosen, rejected]
