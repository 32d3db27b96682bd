"""Windows of demonstrations: images, a goal in words, and the actions that follow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from mmcomponents.batch import IGNORE, TokenType
from mmcomponents.companions.action_statistics import ActionStatistics, StatisticsError
from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.placeholders import IMAGE_PLACEHOLDER
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample, Span
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT, codec
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Actions, Extra
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.movable import Exact

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer

MEMBER = "actions.npy"
"""Suffix of the member that has the actions."""


class ActionChunk(RecordKind):
    """A window of a demonstration: `{"goal": "go to the red disc", "actions": 5, "dataset": "tabletop"}`.

    The member `KEY.actions.npy` has a chunk of actions, fp32 `[K, k]`, of which the first "actions" were demonstrated;
    those past the end of the episode have no target. The sample has `frames` images, the last one is the present, and
    the first `frames` - 1 actions of the chunk lie before it. It is one segment:

        goal (EXTERNAL) ── visual tokens of each image ── noise level (TIME) ── chunk (ACTION)

    The tokenizer is that of the language model that encodes goals. The field is `actions` of a pack.

    Args:
        horizon: Number of actions of a chunk, K, those before the present included.
        action_width: Number of values of an action, k.
        frames: Number of images of a sample.
        statistics: File of the action statistics of the data set: samples of another one are skipped, and a model with
            other statistics is refused. None: not checked.
        text_length: Number of tokens of a goal, to which shorter ones are padded, such as 77 for CLIP. None: as many as
            the goal has.
    """

    name: ClassVar[str] = "actions"
    members: ClassVar[tuple[str, ...]] = (MEMBER,)
    files: ClassVar[tuple[str, ...]] = ("statistics",)

    def __init__(
        self,
        horizon: int,
        action_width: int,
        frames: int = 1,
        statistics: str | None = None,
        text_length: int | None = None,
    ) -> None:
        check_sizes(horizon=horizon, action_width=action_width, frames=frames)
        if text_length is not None:
            check_sizes(MAX_ROWS, text_length=text_length)
        if horizon < frames:
            raise ValueError(f"a horizon of {horizon} has no action after {frames} frames: it includes those between")
        self.horizon, self.action_width, self.frames = horizon, action_width, frames
        self.statistics, self.text_length = statistics, text_length

    @cached_property
    def ranges(self) -> ActionStatistics | None:
        """Statistics of the data set; None without a file.

        Raises:
            DataError: The file is missing, or of actions of another width.
        """
        if self.statistics is None:
            return None
        try:
            found = ActionStatistics.read(self.statistics)
        except StatisticsError as error:
            raise DataError(str(error)) from error
        if found.width != self.action_width:
            raise DataError(
                f"ActionChunk has action_width {self.action_width}, and {self.statistics} is of actions of"
                f" {found.width} values"
            )
        return found

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether there are a goal and a number of actions."""
        return "goal" in record and "actions" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks goal, number of actions and data set.

        Raises:
            SampleError: The goal has no text, no action of the chunk was demonstrated, or the data set is another one.
        """
        goal, count = record["goal"], record["actions"]
        if not isinstance(goal, str) or not goal.strip():
            raise SampleError(f"the goal must be a text, not {goal!r:.40}")
        if not isinstance(count, int) or isinstance(count, bool) or count < self.frames:
            raise SampleError(
                f'"actions" must be the number of demonstrated actions, from {self.frames} on, not {count!r:.40}'
            )
        if self.ranges is not None and record.get("dataset") != self.ranges.dataset:
            raise SampleError(
                f"the sample is of the data set {record.get('dataset')!r:.60}, and {self.statistics} of"
                f" {self.ranges.dataset!r}"
            )

    def empty(self) -> dict[str, Extra]:
        """Returns the field of actions, without any."""
        return {"actions": Actions.none(self.action_width)}

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the sample as one segment.

        Raises:
            SampleError: Actions are missing, of another width or number, or not finite, or there is another number of
                images.
        """
        values, count = self._actions(sample), int(sample.record["actions"])
        field = Actions(Exact(torch.from_numpy(values)), torch.arange(self.horizon) < count)
        segment = self.layout(str(sample.record["goal"]), list(sample.images), renderer)
        segment.extras = {"actions": field}
        return [segment]

    def layout(self, goal: str, images: Sequence[TiledImage], renderer: SampleRenderer) -> RenderedSample:
        """Returns the segment of an observation, with a position for each action.

        Args:
            goal: The goal in words.
            images: Tiled images of the observation.
            renderer: Renderer of the run.

        Raises:
            SampleError: There is another number of images, or the goal has no text, has more than `text_length` tokens
                or a control token.
        """
        if len(images) != self.frames:
            raise SampleError(
                f"an observation has {self.frames} images, and this one {len(images)}: give as many, or set frames of"
                " ActionChunk"
            )
        if not goal.strip():
            raise SampleError("the goal has no text")
        ids = self._goal_ids(goal, renderer)
        spans = [Span(0, len(ids), TokenType.EXTERNAL)]
        placeholder = renderer.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
        for number, tokens in enumerate(renderer.visual_tokens(images)):
            spans.append(Span(len(ids), tokens, TokenType.IMAGE, number))
            ids += [placeholder] * tokens
        spans += [Span(len(ids), 1, TokenType.TIME), Span(len(ids) + 1, self.horizon, TokenType.ACTION)]
        ids += [renderer.pad_id] * (1 + self.horizon)
        return RenderedSample(ids, [IGNORE] * len(ids), spans, list(images))

    def typed(self, goal: str, images: Sequence[TiledImage], renderer: SampleRenderer) -> RenderedSample:
        """Renders a goal that a user gives with images, see `RecordKind.typed`."""
        return self.layout(goal.replace(IMAGE_PLACEHOLDER, "").strip(), images, renderer)

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns 1: each window is asked for its actions."""
        return 1

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the observation as a prompt, whose answer are the demonstrated actions from the present on.

        Raises:
            SampleError: The sample cannot be used.
        """
        goal, count = str(sample.record["goal"]), int(sample.record["actions"])
        true = self._actions(sample)[self.frames - 1 : count]
        return [Prompt(self.layout(goal, list(sample.images), renderer), goal, true.tolist(), form="values")]

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Returns False: the goal is the only text."""
        return False

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Compares width, number and statistics of actions, and the number of frames, with what the parts have.

        Raises:
            ValueError: They differ.
        """
        for name, part in parts.items():
            for what in ("action_width", "horizon"):
                wanted, own = getattr(part, what, None), getattr(self, what)
                if wanted is not None and wanted != own:
                    raise ValueError(
                        f"{name} ({type(part).__name__}) has {what} {wanted}, and ActionChunk in data.kinds {own}"
                    )
            past = getattr(part, "past", None)
            if past is not None and past != self.frames - 1:
                raise ValueError(
                    f"{name} ({type(part).__name__}) leaves out {past} actions before the present (past), and"
                    f" ActionChunk in data.kinds has {self.frames} frames: {self.frames - 1} is expected"
                )
            given = getattr(part, "statistics_fingerprint", None)
            if given is not None and self.ranges is not None and given != self.ranges.fingerprint:
                raise ValueError(
                    f"{name} ({type(part).__name__}) normalises actions with the statistics {given}, and those of the"
                    f" data are {self.ranges.fingerprint} ({self.statistics})"
                )

    def _goal_ids(self, goal: str, renderer: SampleRenderer) -> list[int]:
        found = codec(renderer.tokenizer).pattern.search(goal)
        if found:
            raise SampleError(f"the goal contains the control token {found.group()}")
        ids: list[int] = list(renderer.tokenizer(goal)["input_ids"])
        if self.text_length is None:
            return ids
        if len(ids) > self.text_length:
            raise SampleError(f"the goal has {len(ids)} tokens, text_length is {self.text_length}")
        return ids + [renderer.pad_id] * (self.text_length - len(ids))

    def _actions(self, sample: Sample) -> npt.NDArray[np.float32]:
        content = sample.members.get(MEMBER)
        if content is None:
            raise SampleError(f"the sample has no member {MEMBER}")
        try:
            values = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise SampleError(f"{MEMBER} is no array of numpy: {' '.join(str(error).split())[:80]}") from error
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
            raise SampleError(
                f"{MEMBER} must be an array of floats [K, k], not {getattr(values, 'dtype', type(values))}"
            )
        if values.shape[1] != self.action_width:
            raise SampleError(
                f"actions of {values.shape[1]} values, and the run's have {self.action_width} (action_width)"
            )
        if values.shape[0] != self.horizon:
            raise SampleError(f"a chunk of {values.shape[0]} actions, and the run's horizon is {self.horizon}")
        if sample.record["actions"] > self.horizon:
            raise SampleError(f'"actions" is {sample.record["actions"]}, and the chunk has {self.horizon}')
        if not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).any(1).sum())
            raise SampleError(f"{wrong} of {self.horizon} actions are NaN or infinite")
        return values.astype(np.float32)
