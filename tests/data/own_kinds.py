"""Record kinds as another package writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, Exact, TokenType
from mmcomponents.data.chat.kinds import RecordKind, Sample
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample, Span
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Actions, Extra


class Moves(RecordKind):
    """A task and the actions that do it, in a member file: `{"task": "pick it up"}` and `KEY.moves.npy`.

    Args:
        width: Number of values of an action.
    """

    name: ClassVar[str] = "moves"
    members: ClassVar[tuple[str, ...]] = ("moves.npy",)

    def __init__(self, width: int = 2) -> None:
        self.width = width

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "task" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        values = np.frombuffer(sample.members["moves.npy"], np.float32).reshape(-1, self.width)
        said = renderer.prompt([{"role": "user", "content": sample.record["task"]}], sample.images)
        segment = RenderedSample.of_chat(said, sample.images)
        start, count = len(segment.input_ids), len(values)
        segment.input_ids = [*segment.input_ids, *[renderer.pad_id] * count]
        segment.labels = [*segment.labels, *[IGNORE] * count]
        segment.spans = [*segment.spans, Span(start, count, TokenType.ACTION)]
        mask = torch.ones(count, dtype=torch.bool)
        segment.extras["actions"] = Actions(Exact(torch.tensor(values)), mask)
        return [segment]

    def empty(self) -> dict[str, Extra]:
        return {"actions": Actions.none(self.width)}

    def turns(self, record: Mapping[str, Any]) -> int:
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        (segment,) = self.render(sample, renderer)
        truth = np.frombuffer(sample.members["moves.npy"], np.float32).reshape(-1, self.width).tolist()
        return [Prompt(segment, sample.record["task"], truth, "moves")]


@dataclass
class Heights(Extra):
    """One number for each sample."""

    value: Tensor


class Height(RecordKind):
    """A number and a text: `{"height": 1.5, "of": "a tree"}`."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "height" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        text = renderer.document(f"{sample.record['of']} ", [])
        extras = {"heights": Heights(torch.tensor([sample.record["height"]]))}
        return [RenderedSample.of_chat(text, extras=extras)]

    def empty(self) -> dict[str, Extra]:
        return {"heights": Heights(torch.zeros(0))}


class Sketch(RecordKind):
    """A picture that the kind draws itself, of ids of an image tokenizer: `{"sketch": 3}` has three tiles."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        return "sketch" in record

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        ids = torch.full((sample.record["sketch"], 2, 2), 7)
        count = int(ids.shape[0])
        image = TiledImage(None, vq_ids=ids, visual_tokens=2 * count)
        text = renderer.document("drawn", [])
        start = len(text.input_ids)
        return [
            RenderedSample(
                [*text.input_ids, *[renderer.pad_id] * (2 * count)],
                [*text.labels, *[IGNORE] * (2 * count)],
                [Span(start, 2 * count, TokenType.IMAGE_GEN, 0)],
                [image],
            )
        ]


class Broken(RecordKind):
    """A kind that fails in one of its methods: `{"broken": true}`.

    Args:
        method: Name of the method.
    """

    def __init__(self, method: str) -> None:
        self.method = method

    def matches(self, record: Mapping[str, Any]) -> bool:
        self._fail("matches", "broken" in record)
        return "broken" in record

    def check(self, record: Mapping[str, Any]) -> None:
        self._fail("check")

    def turns(self, record: Mapping[str, Any]) -> int:
        self._fail("turns")
        return 1

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        self._fail("render")
        if self.method == "nothing":
            return []
        return [RenderedSample.of_chat(renderer.document("fine", []))]

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        self._fail("prompts")
        return []

    def _fail(self, method: str, here: bool = True) -> None:
        if here and method == self.method:
            raise KeyError("boxes")


def moves(*values: float) -> bytes:
    """Returns the content of a member of `Moves`."""
    return np.array(values, np.float32).tobytes()
