"""The record kind: an instruction, an image, and actions in a file of their own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmcomponents.batch import IGNORE, Exact, TokenType
from mmcomponents.data import SampleError, SampleRenderer
from mmcomponents.data.chat import Prompt, RecordKind, RenderedSample, Sample, Span
from mmcomponents.extras import Actions, Extra

WIDTH = 2
"""Values of an action: a place to move to, from -1 (left, top) to 1 (right, bottom) in the image."""
MOST = 64
"""Largest number of actions of a sample."""


class PointingTask(RecordKind):
    """Pictures with an instruction: `{"instruction": "Move to the red square."}`, an image and `KEY.actions.npy`.

    A sample is one segment: the question with its image, then one position of type ACTION for each action.
    """

    name: ClassVar[str] = "pointing"
    members: ClassVar[tuple[str, ...]] = ("actions.npy",)

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there is an instruction."""
        return "instruction" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that the instruction is a text.

        Raises:
            SampleError: It is not.
        """
        if not isinstance(record["instruction"], str):
            raise SampleError(f'wrong JSON: "instruction" is not a text ({type(record["instruction"]).__name__})')

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the question and the action positions, with the actions as a field of the pack."""
        actions = read_actions(sample.members["actions.npy"])
        segment = self._segment(sample, renderer, len(actions))
        segment.extras["actions"] = Actions(Exact(actions), torch.ones(len(actions), dtype=torch.bool))
        return [segment]

    def empty(self) -> dict[str, Extra]:
        """Returns no actions, for packs without a sample of this kind."""
        return {"actions": Actions.none(WIDTH)}

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns 1: each sample is a question."""
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the segment without its actions, which are the true answer."""
        actions = read_actions(sample.members["actions.npy"])
        segment = self._segment(sample, renderer, len(actions))
        return [Prompt(segment, sample.record["instruction"], actions.tolist(), self.name)]

    def _segment(self, sample: Sample, renderer: SampleRenderer, actions: int) -> RenderedSample:
        """Renders the question and `actions` positions; their ids are placeholders."""
        if len(sample.images) != 1 or sample.videos:
            raise SampleError(f"a pointing sample has one image, not {len(sample.images)}, and no video")
        question = [{"role": "user", "content": sample.record["instruction"]}]
        chat = renderer.prompt(question, sample.images)
        segment = RenderedSample.of_chat(chat, sample.images)
        segment.spans = [*segment.spans, Span(len(chat.input_ids), actions, TokenType.ACTION)]
        segment.input_ids = [*chat.input_ids, *[renderer.pad_id] * actions]
        segment.labels = [IGNORE] * len(segment.input_ids)
        return segment


def read_actions(data: bytes) -> Tensor:
    """Reads a file of numpy's format 1.0 with `[A, 2]` float32, A from 1 to 64.

    Raises:
        SampleError: It is no such file, or a value is NaN or infinite.
    """
    file = io.BytesIO(data)
    try:
        np.lib.format.read_magic(file)
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise SampleError(f"actions.npy is not in numpy's format: {error}") from error
    if dtype != np.dtype("<f4") or by_column or len(shape) != 2 or not 1 <= shape[0] <= MOST or shape[1] != WIDTH:
        wanted = f"[A, {WIDTH}] float32 in rows, A from 1 to {MOST}"
        raise SampleError(f"actions.npy has {list(shape)} {dtype} and must have {wanted}")
    values = data[file.tell() :]
    if len(values) != shape[0] * WIDTH * 4:
        raise SampleError(f"actions.npy has {len(values)} bytes of values and must have {shape[0] * WIDTH * 4}")
    actions = torch.from_numpy(np.frombuffer(values, "<f4").reshape(shape).copy())
    if not bool(actions.isfinite().all()):
        raise SampleError("actions.npy has values that are NaN or infinite")
    return actions
